//! `holdfast_tests::decoders::wire::watchdog_answers` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::wire::watchdog_answers(data));
