//! Whole builds: real sources in a real chroot, with real apt and dpkg. Slow by nature (seconds
//! each), and the first of all runs makes the chroot (a minute).

mod common;
mod debian;
mod depends;
mod diagnoses;
mod failures;
mod foreign;
mod limits;
mod pulse;
mod quality;
mod source;
mod trouble;
