//! Devices whose client is Mender's, of version 3.4 or 5: what they send, which image they get, and
//! what is to be told of them. All of it pure; `http::mender` carries it out.
//!
//! A Mender device is a device of the fleet like any other. Its deployment is the image that the lock of
//! its stage pins for its device type; nobody starts one by hand.

pub(crate) mod deployment;
pub(crate) mod next;
pub(crate) mod report;
pub(crate) mod signature;
pub(crate) mod token;
pub(crate) mod wire;
