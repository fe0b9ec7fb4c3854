//! Return-path steering with real programs, real interfaces and real traffic, in network namespaces.

mod follow;
mod gateways;
mod life;
mod sink;
mod topology;
mod traffic;
