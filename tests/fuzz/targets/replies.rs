//! `holdfast_tests::decoders::wire::replies` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::wire::replies(data));
