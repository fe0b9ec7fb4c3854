//! What real zebras say over FPM, decoded: the messages that no manifest of ours asks for, and that others use the crate for.

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use backtrail_lab::{End, Frr, FrrInstall, FrrOptions, Lab, Namespace, Version, wait_until};
use zebra_fpm::{Decoder, Encap, Nexthop, NexthopBody, NexthopId, Route, Seg6LocalAction, Target, Update};

use crate::rig::WAIT;

/// What was decoded, and what was wrong with the rest.
#[derive(Default)]
struct Heard {
    updates: Vec<Update>,
    failure: Option<String>,
}

/// A node whose zebra talks to this test, and a peer on `up0` (192.0.1.1, 2001:db8:1::1).
struct Wire {
    heard: Arc<Mutex<Heard>>,
    frr: Frr,
    node: Namespace,
    _peer: Namespace,
    _lab: Lab,
}

impl Wire {
    /// `prepare` runs in the node's namespace before FRR.
    fn start(install: &FrrInstall, prepare: &str, options: FrrOptions) -> Result<Self> {
        let lab = Lab::new("wire")?;
        let (node, peer) = (lab.namespace("node")?, lab.namespace("peer")?);
        lab.connect(
            &End::new(&peer, "eth0", &["192.0.1.1/24", "2001:db8:1::1/64"]),
            &End::new(&node, "up0", &["192.0.1.2/24", "2001:db8:1::2/64"]),
        )?;
        node.run(&format!(":; {prepare}"))?;
        let heard = listen(&node)?;
        let frr = Frr::start(&lab, &node, install, FrrOptions { fpm: true, ..options })?;
        Ok(Self { heard, frr, node, _peer: peer, _lab: lab })
    }

    fn updates(&self) -> Vec<Update> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(heard.failure, None);
        heard.updates.clone()
    }

    /// Waits until zebra has said something of which `find` makes a value.
    fn wait<T>(&self, what: &str, find: impl Fn(&[Update]) -> Option<T>) -> Result<T> {
        let updates = || self.updates();
        let mut found = None;
        let waited = wait_until(WAIT, what, || {
            found = find(&updates());
            found.is_some()
        });
        waited.with_context(|| {
            let lines: Vec<String> = updates().iter().map(ToString::to_string).collect();
            format!(
                "heard:\n{}\n{}",
                lines.join("\n"),
                self.frr.vtysh(&["show running-config"]).unwrap_or_default()
            )
        })?;
        found.context("found before")
    }

    /// The last announcement of a prefix, once `accept` likes it.
    fn wait_route(&self, prefix: &str, accept: impl Fn(&Route) -> bool) -> Result<Route> {
        self.wait(prefix, |updates| latest(updates, prefix).filter(|route| accept(route)).cloned())
    }

    /// What the nexthop object of a route holds.
    fn body(&self, route: &Route) -> Result<NexthopBody> {
        let Target::Nexthop(id) = route.target else { anyhow::bail!("{route:?} has no nexthop object") };
        self.wait(&format!("nexthop {}", id.0), |updates| object(updates, id).cloned())
    }

    fn single(&self, route: &Route) -> Result<Nexthop> {
        match self.body(route)? {
            NexthopBody::Single(hop) => Ok(hop),
            other => anyhow::bail!("not a single nexthop: {other:?}"),
        }
    }
}

/// Listens where zebra connects to, and decodes all that arrives.
fn listen(node: &Namespace) -> Result<Arc<Mutex<Heard>>> {
    let listener = node.enter(|| TcpListener::bind("127.0.0.1:2620"))??;
    let heard = Arc::new(Mutex::new(Heard::default()));
    let here = Arc::clone(&heard);
    // It ends with zebra's connection.
    thread::spawn(move || {
        if let Err(error) = hear(&listener, &here) {
            here.lock().unwrap_or_else(PoisonError::into_inner).failure = Some(format!("{error:#}"));
        }
    });
    Ok(heard)
}

fn hear(listener: &TcpListener, here: &Mutex<Heard>) -> Result<()> {
    let (mut zebra, _) = listener.accept()?;
    let (mut decoder, mut updates, mut bytes) = (Decoder::new(), Vec::new(), [0; 65536]);
    // A zebra that is killed resets the connection.
    while let Ok(read @ 1..) = zebra.read(&mut bytes) {
        decoder.frames().extend(bytes.get(..read).unwrap_or_default());
        while let Some(frame) = decoder.next_frame(&mut updates)? {
            ensure!(frame.unknown_attributes == 0, "unknown attributes in {updates:?}");
        }
        here.lock().unwrap_or_else(PoisonError::into_inner).updates.append(&mut updates);
    }
    Ok(())
}

fn latest<'a>(updates: &'a [Update], prefix: &str) -> Option<&'a Route> {
    updates.iter().rev().find_map(|update| match update {
        Update::Route(route) if route.key.dst.to_string() == prefix => Some(route),
        _ => None,
    })
}

fn object(updates: &[Update], id: NexthopId) -> Option<&NexthopBody> {
    updates.iter().rev().find_map(|update| match update {
        Update::Nexthop(object) if object.id == id => Some(&object.body),
        _ => None,
    })
}

/// A change is one message: `dplane_fpm_nl` of FRR 9.1 and newer replaces, older ones delete and add in one frame.
fn a_changed_route_keeps_its_key_and_shares_nexthops(install: &FrrInstall) -> Result<()> {
    let staticd = "ip route 198.51.100.0/24 192.0.1.1\nip route 198.51.101.0/24 192.0.1.1\n".to_owned();
    let wire = Wire::start(install, "", FrrOptions { staticd, ..FrrOptions::default() })?;
    let first = wire.wait_route("198.51.100.0/24", |_| true)?;
    let second = wire.wait_route("198.51.101.0/24", |_| true)?;
    ensure!(first.target == second.target, "one nexthop, two objects: {first:?} {second:?}");
    ensure!(wire.single(&first)?.gateway == Some("192.0.1.1".parse()?));
    wire.frr.configure("ip route 198.51.100.0/24 192.0.1.3\n")?;
    let changed = wire.wait_route("198.51.100.0/24", |route| route.target != first.target)?;
    let NexthopBody::Group(group) = wire.body(&changed)? else { anyhow::bail!("not a group") };
    ensure!(group.members.len() == 2, "{group:?}");
    let updates = wire.updates();
    let deletes =
        updates.iter().filter(|u| matches!(u, Update::RouteDel(del) if del.key == first.key)).count();
    ensure!((deletes == 0) == install.can_divert(), "{deletes} deletes from FRR {}", install.version());
    Ok(())
}

fn segment_routing(install: &FrrInstall) -> Result<()> {
    let prepare = "sysctl -qw net.ipv6.conf.all.seg6_enabled=1";
    let staticd = "ipv6 route 2001:db8:5::/48 2001:db8:1::1 segments fd00:1::a/fd00:1::b\n";
    let options = FrrOptions { staticd: staticd.to_owned(), ..FrrOptions::default() };
    let wire = Wire::start(install, prepare, options)?;
    let route = wire.wait_route("2001:db8:5::/48", |_| true)?;
    let encap = wire.single(&route)?.encap;
    let Some(Encap::Seg6 { mode: 1, segments, .. }) = encap.as_deref() else { anyhow::bail!("{encap:?}") };
    ensure!(**segments == ["fd00:1::a".parse::<std::net::Ipv6Addr>()?, "fd00:1::b".parse()?]);
    if install.version() < Version(10, 4) {
        return Ok(());
    }
    // A local SID needs a locator, a device to stand on and, for a lookup, a VRF: End has none of that but the device.
    wire.node.run("ip link add sr0 type veth peer name sr1; ip link set sr0 up; ip link set sr1 up")?;
    wire.frr.configure(
        "segment-routing\n srv6\n  locators\n   locator MAIN\n    prefix fcbb:bbbb:1::/48 block-len 32 node-len 16 func-bits 16\n    \
         behavior usid\n   exit\n  exit\n  static-sids\n   sid fcbb:bbbb:1::/48 locator MAIN behavior uN\n  exit\n exit\nexit\n",
    )?;
    let route = wire.wait_route("fcbb:bbbb:1::/48", |route| !matches!(route.target, Target::None))?;
    let hop = match &route.target {
        Target::Nexthop(_) => wire.single(&route)?,
        other => other.nexthops().first().cloned().context("no nexthop")?,
    };
    let Some(Encap::Seg6Local(local)) = hop.encap.as_deref() else { anyhow::bail!("{hop:?}") };
    ensure!(local.action == Seg6LocalAction::END && local.flavors.is_some(), "{local:?}");
    Ok(())
}

with_each_frr!(a_changed_route_keeps_its_key_and_shares_nexthops);

with_frr_of!(sid, Sid:
    a_changed_route_keeps_its_key_and_shares_nexthops,
    segment_routing,
);
