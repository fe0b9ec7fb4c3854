//! What operators do to a running agent: pause it, try a change, ask it to explain itself.

mod apply;
mod explain;
mod interference;
mod rig;
mod trial;
