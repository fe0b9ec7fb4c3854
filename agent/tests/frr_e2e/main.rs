//! The agent beside real FRR and real BGP peers: FRR 8.4 in mirror mode, FRR 10.3 and newer in divert mode.

#[macro_use]
mod rig;
mod feedback;
mod interference;
mod restarts;
mod routes;
mod wire;
