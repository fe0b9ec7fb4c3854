//! What zebra would send over FPM.

use std::io::Write as _;
use std::net::{IpAddr, TcpStream};

use anyhow::{Context as _, Result};
use backtrail_lab::Namespace;
use ipnet::{IpNet, Ipv4Net};
use zebra_fpm::frame::{Encoding, write_frame};
use zebra_fpm::{
    Family, IfIndex, Nexthop, NexthopBody, NexthopId, NexthopObject, Protocol, Route, RouteDel, RouteKey,
    TableId, Update, netlink,
};

/// The table that zebra labels its routes with (`-R`).
pub(crate) const TABLE: u32 = 5000;
/// zebra's netlink port id.
const PID: u32 = 4711;
const NEXTHOP: NexthopId = NexthopId(17);

/// A connection to the agent, as zebra's.
pub(crate) struct Feeder {
    stream: TcpStream,
}

impl Feeder {
    /// Connects within the agent's namespace.
    pub(crate) fn connect(namespace: &Namespace) -> Result<Self> {
        let stream = namespace.enter(|| TcpStream::connect("127.0.0.1:2620"))?;
        Ok(Self { stream: stream.context("cannot connect to the agent's FPM port")? })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the agent closed the FPM connection")
    }
}

/// The nexthop object that all routes use.
pub(crate) fn nexthop(gateway: IpAddr, ifindex: u32) -> Result<Vec<u8>> {
    let body = NexthopBody::Single(Nexthop::new(Some(gateway), Some(IfIndex(ifindex))));
    let family = Family::of_addr(&gateway);
    frames([Update::Nexthop(NexthopObject { id: NEXTHOP, protocol: Protocol::ZEBRA, family, body })])
}

/// One frame for each route, by nexthop id.
pub(crate) fn announce(routes: &[Ipv4Net]) -> Result<Vec<u8>> {
    frames(routes.iter().map(|net| Update::Route(Route::by_nexthop(key(*net), Protocol::BGP, NEXTHOP))))
}

/// One frame for each route.
pub(crate) fn withdraw(routes: &[Ipv4Net]) -> Result<Vec<u8>> {
    frames(routes.iter().map(|net| {
        Update::RouteDel(RouteDel { key: key(*net), protocol: Some(Protocol::BGP), metric: None })
    }))
}

fn key(net: Ipv4Net) -> RouteKey {
    RouteKey::new(TableId(TABLE), IpNet::V4(net))
}

fn frames(updates: impl IntoIterator<Item = Update>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for update in updates {
        write_frame(Encoding::Netlink, &mut bytes, |out| netlink::encode(&update, PID, out))?;
    }
    Ok(bytes)
}
