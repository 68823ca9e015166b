//! `holdfast_tests::decoders::text::lease_strings` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::text::lease_strings(data));
