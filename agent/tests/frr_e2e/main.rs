//! The agent beside real FRR and real BGP peers: FRR 8.4 in mirror mode, FRR 10.3 in divert mode.

#[macro_use]
mod rig;
mod restarts;
mod routes;
