//! The daemon as a library.
#![forbid(unsafe_code)]

pub mod codes;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod group;
pub mod guard;
pub mod heirs;
pub mod lease_disk;
pub mod linux;
pub mod lockspace;
pub mod log_ring;
pub mod nodes;
pub mod note;
pub mod oom;
pub mod panicked;
pub mod platform;
pub mod procfs;
pub mod queries;
pub mod resource;
pub mod restart;
pub mod rings;
pub mod rundir;
pub mod runtime;
pub mod sanlock_conf;
pub mod shares;
pub mod sock_diag;
pub mod state_file;
pub mod supervisor;
pub mod sysfs;
pub mod watchdog;
pub mod wdmd;
pub mod works;
