//! `holdfast_tests::decoders::areas::paxos_acquire` on arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_tests::decoders::areas::paxos_acquire(data));
