//! What zebra would send over FPM, without a zebra: route sets of any size, gateways and groups at will.

use std::io::Write as _;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use zebra_fpm::frame::{Encoding, write_frame};
use zebra_fpm::{
    Family, GroupMember, IfIndex, Nexthop, NexthopBody, NexthopGroup, NexthopId, NexthopObject, Protocol,
    Route, RouteDel, RouteKey, TableId, Update, netlink,
};

use crate::namespace::Namespace;
use crate::wait_until;

/// A connection to the agent, as zebra's. Closed when dropped.
#[derive(Debug)]
pub struct Feeder {
    stream: TcpStream,
}

impl Feeder {
    /// The table that it labels its routes with (zebra's `-R`).
    pub const TABLE: u32 = 5000;
    /// Its netlink port id: the same in all sessions, as if zebra had lived on.
    pub const PID: u32 = 4711;

    /// Connects within the agent's namespace, to the default port, once the agent listens.
    ///
    /// # Errors
    /// When the agent does not listen within 30 s.
    pub fn connect(namespace: &Namespace) -> Result<Self> {
        let mut stream = None;
        wait_until(Duration::from_secs(30), "the agent listens for FPM", || {
            stream = namespace.enter(|| TcpStream::connect("127.0.0.1:2620")).ok().and_then(Result::ok);
            stream.is_some()
        })?;
        Ok(Self { stream: stream.context("no connection to the agent's FPM port")? })
    }

    /// Sends frames as [`frames`] makes them.
    ///
    /// # Errors
    /// When the agent has closed the session.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("the agent closed the FPM connection")
    }

    /// Sends updates, a frame for each.
    ///
    /// # Errors
    /// When the agent has closed the session.
    pub fn send(&mut self, updates: impl IntoIterator<Item = Update>) -> Result<()> {
        let bytes = frames(updates)?;
        self.send_bytes(&bytes)
    }
}

/// Updates as bytes of an FPM session, a frame for each.
///
/// # Errors
/// When one is too long for a frame.
pub fn frames(updates: impl IntoIterator<Item = Update>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for update in updates {
        write_frame(Encoding::Netlink, &mut bytes, |out| netlink::encode(&update, Feeder::PID, out))?;
    }
    Ok(bytes)
}

/// A nexthop object.
#[must_use]
pub fn nexthop(id: u32, gateway: IpAddr, ifindex: u32) -> Update {
    let body = NexthopBody::Single(Nexthop::new(Some(gateway), Some(IfIndex(ifindex))));
    let family = Family::of_addr(&gateway);
    Update::Nexthop(NexthopObject { id: NexthopId(id), protocol: Protocol::ZEBRA, family, body })
}

/// A nexthop group of equal members.
#[must_use]
pub fn group(id: u32, members: &[u32]) -> Update {
    let members = members.iter().map(|id| GroupMember { id: NexthopId(*id), weight: 1 }).collect();
    let body = NexthopBody::Group(NexthopGroup { members, resilient: None });
    Update::Nexthop(NexthopObject {
        id: NexthopId(id),
        protocol: Protocol::ZEBRA,
        family: Family::Unspec,
        body,
    })
}

/// A BGP route by nexthop id.
#[must_use]
pub fn announce(net: impl Into<IpNet>, id: u32) -> Update {
    Update::Route(Route::by_nexthop(key(net.into()), Protocol::BGP, NexthopId(id)))
}

/// Its withdrawal.
#[must_use]
pub fn withdraw(net: impl Into<IpNet>) -> Update {
    Update::RouteDel(RouteDel { key: key(net.into()), protocol: Some(Protocol::BGP), metric: None })
}

/// The same for a route of another table.
#[must_use]
pub fn in_table(table: u32, update: Update) -> Update {
    let table = TableId(table);
    match update {
        Update::Route(route) => Update::Route(Route { key: RouteKey { table, ..route.key }, ..route }),
        Update::RouteDel(gone) => Update::RouteDel(RouteDel { key: RouteKey { table, ..gone.key }, ..gone }),
        other => other,
    }
}

fn key(net: IpNet) -> RouteKey {
    RouteKey::new(TableId(Feeder::TABLE), net)
}
