//! The route engine on a real kernel, fed as zebra would feed it: paths that die, interference, restarts, hostile feeds.

mod failover;
mod interference;
mod kills;
mod limits;
mod objects;
mod rig;
