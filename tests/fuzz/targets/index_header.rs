//! `holdfast_tests::decoders::index::index_header` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::index::index_header(data));
