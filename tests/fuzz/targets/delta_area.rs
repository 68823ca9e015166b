//! `holdfast_tests::decoders::areas::delta_area` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::areas::delta_area(data));
