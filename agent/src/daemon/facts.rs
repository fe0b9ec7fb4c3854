//! What the node knows beside manifests, links and routes: gathered here from its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{Agent, Report};
use crate::intent::types::{Intent, VrfMode};
use crate::kernel::dump::{TableUse, is_used_by, table_use};
use crate::kernel::{KernelError, peers};
use crate::model::Family;
use crate::plan::{Links, NodeFacts};

/// Shortest time between two looks at the node's TCP sockets.
const PEERS_EVERY: Duration = Duration::from_secs(5);
/// BGP peers at most that are protected: more than any node has sessions.
const MAX_PEERS: usize = 4096;

/// `rtm_protocol` of routes that zebra writes into the kernel (FRR's zebra/rt_netlink.h, include/uapi/linux/rtnetlink.h): its
/// own, BGP, IS-IS, OSPF, RIP, RIPng, NHRP, EIGRP, LDP, SHARP, PBR, static, OpenFabric, SRTE.
const ZEBRA_PROTOCOLS: [u8; 14] = [11, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 197, 198];

/// The sources.
#[derive(Debug)]
pub(super) struct Facts {
    /// The command line.
    configured: NodeFacts,
    /// Every peer that this agent saw a session with. It stays when the session ends: else the route to itself that
    /// a peer announces would become acceptable at the moment in which it has broken the session.
    peers: BTreeSet<IpAddr>,
    /// Whether the sockets are to be looked at again, and from when on.
    pub(super) ask_peers: bool,
    asking: bool,
    /// The kernel does not tell, which was said.
    blind: bool,
    next_peers: Instant,
    /// Tables that were found free, or ours.
    usable: BTreeSet<u32>,
    occupied: BTreeMap<u32, String>,
}

impl Facts {
    pub(super) fn new(configured: NodeFacts, now: Instant) -> Self {
        Self {
            configured,
            peers: BTreeSet::new(),
            ask_peers: true,
            asking: false,
            blind: false,
            next_peers: now,
            usable: BTreeSet::new(),
            occupied: BTreeMap::new(),
        }
    }

    /// When the sockets are due, if they are.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.ask_peers && !self.asking).then_some(self.next_peers)
    }

    /// Whether a table of ours is used by others: it is looked at again until they leave it.
    pub(super) fn is_occupied(&self) -> bool {
        !self.occupied.is_empty()
    }

    /// Takes note of sessions; true when a peer is new.
    pub(super) fn peers(&mut self, found: Result<BTreeSet<IpAddr>, KernelError>, now: Instant) -> bool {
        self.asking = false;
        self.next_peers = now + PEERS_EVERY;
        let known = self.peers.len();
        match found {
            Ok(found) => {
                let new: Vec<IpAddr> = found.difference(&self.peers).copied().collect();
                self.peers.extend(new.into_iter().take(MAX_PEERS.saturating_sub(known)));
            }
            Err(error) if !self.blind => {
                self.blind = true;
                tracing::warn!(%error, "cannot see BGP sessions: their peers are not protected");
            }
            Err(_) => {}
        }
        self.peers.len() != known
    }
}

impl Agent {
    /// All that is known now.
    pub(super) fn node_facts(&self) -> NodeFacts {
        let forwards = |family: &Family| {
            let key = format!("net/{}/conf/all/forwarding", family.sysctl());
            self.environment.sysctls.get(&key).is_ok_and(|value| value == "1")
        };
        let moved = self.environment.device_record().iter().filter(|(_, changed)| changed.member);
        let mut facts = NodeFacts {
            bgp_peers: self.facts.peers.clone(),
            defaults: self.survey.as_ref().map(|survey| survey.defaults.clone()).unwrap_or_default(),
            forwarding: Family::ALL.into_iter().filter(forwards).collect(),
            silent: self.engine.silent_gateways().collect(),
            occupied: self.facts.occupied.clone(),
            moved: moved.map(|(ifindex, changed)| (*ifindex, changed.clone())).collect(),
            ..NodeFacts::default()
        };
        facts.merge(&self.facts.configured);
        facts.merge(&self.manifests.facts());
        facts
    }

    /// Looks at the node's sockets on a blocking thread, where that is due.
    pub(super) fn start_peers(&mut self, now: Instant) {
        if self.facts.deadline().is_none_or(|due| now < due) {
            return;
        }
        self.facts.ask_peers = false;
        self.facts.asking = true;
        let reports = self.reports.clone();
        tokio::task::spawn_blocking(move || {
            let _ = reports.blocking_send(Report::Peers(peers::bgp_peers()));
        });
    }

    /// Looks into tables before they are used for the first time, and into those that others use.
    pub(super) async fn inspect_tables(&mut self) {
        let wanted = wanted_tables(&self.intent, self.observed.links());
        self.facts.occupied.retain(|table, _| wanted.contains(table));
        let unknown = wanted.difference(&self.facts.usable).copied().collect::<Vec<_>>();
        let protocol = self.intent.config.route_protocol;
        for table in unknown {
            let looked = tokio::task::spawn_blocking(move || table_use(table, protocol)).await;
            match looked {
                Ok(Ok(TableUse { ours: false, foreign })) if !foreign.is_empty() => {
                    let held: Vec<String> = foreign
                        .iter()
                        .map(|(protocol, routes)| format!("{routes} of protocol {protocol}"))
                        .collect();
                    self.facts.occupied.insert(table, held.join(", "));
                }
                Ok(Ok(_)) => {
                    self.facts.occupied.remove(&table);
                    self.facts.usable.insert(table);
                }
                Ok(Err(error)) => tracing::warn!(%error, table, "cannot see whether others use a table"),
                Err(error) => tracing::error!(%error, "the dump of a table panicked"),
            }
        }
        for table in self.engine.silent_tables(Instant::now()).collect::<Vec<_>>() {
            match tokio::task::spawn_blocking(move || is_used_by(table, &ZEBRA_PROTOCOLS)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => self.engine.forget_table(table),
                Ok(Err(error)) => tracing::warn!(%error, table, "cannot see whether zebra uses a table"),
                Err(error) => tracing::error!(%error, "the dump of a table panicked"),
            }
        }
    }
}

/// The tables of the owned range that manifests want to write. What is in the table of a VRF device came with it.
fn wanted_tables(intent: &Intent, links: &Links) -> BTreeSet<u32> {
    let (first, last) = intent.config.tables;
    let vrfs = intent.vrfs.iter().filter(|vrf| vrf.mode != VrfMode::Adopt).map(|vrf| vrf.table);
    let imports = intent.imports.iter().filter(|import| import.program).map(|import| import.into.table);
    let of_device = |table: &u32| links.values().any(|link| link.vrf_table == Some(*table));
    let ranged = |table: &u32| (first..=last).contains(table);
    vrfs.chain(imports).filter(|table| ranged(table) && !of_device(table)).collect()
}
