//! `holdfast_tests::decoders::areas::dump` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::areas::dump(data));
