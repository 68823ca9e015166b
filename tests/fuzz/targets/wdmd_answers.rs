//! `holdfast_tests::decoders::wire::wdmd_answers` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::wire::wdmd_answers(data));
