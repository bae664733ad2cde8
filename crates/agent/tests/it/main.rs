//! The real agent against a small HTTPS server of its own, with real git repositories, real
//! signatures and the real ansible-playbook.

mod attacks;
mod convergence;
mod daemon;
mod enrolment;
mod fleet;
mod inventory;
mod offline;
mod operate;
mod stub;
