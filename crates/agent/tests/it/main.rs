//! The real agent against a small HTTPS server of its own, with real git repositories, real
//! signatures and the real ansible-playbook.

mod ansible_pull;
mod attacks;
mod attacks_server;
mod convergence;
mod daemon;
mod elsewhere;
mod enrolment;
mod fleet;
mod images;
mod inventory;
mod metrics;
mod offline;
mod operate;
mod stub;
mod tpm;
