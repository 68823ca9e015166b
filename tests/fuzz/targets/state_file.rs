//! `holdfast_tests::decoders::text::state_file` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::text::state_file(data));
