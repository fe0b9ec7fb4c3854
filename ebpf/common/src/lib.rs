//! Map layouts and the packet parser that the tc programs and the agent share.
//!
//! Everything here is `no_std` and compiles for the BPF target and for the host: [`maps`] is the contract between
//! the two sides, [`packet`] the parser, [`scope`] the addresses and ports that are never looked at.
//! With the feature `user` the types can be read and written through aya.
#![cfg_attr(not(test), no_std)]

pub mod maps;
pub mod packet;
pub mod scope;
#[cfg(feature = "user")]
mod user;
#[cfg(feature = "user")]
pub use user::OBJECT;
