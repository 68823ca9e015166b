//! `holdfast_tests::decoders::sectors::dblock` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::sectors::dblock(data));
