//! What a node knows beside manifests, links and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::intent::types::{AutoProtect, Vrf};
use crate::model::Family;
use crate::model::devices::DeviceRecord;

/// What the node knows: the cluster's networks, whom it must be able to reach, and what the kernel shows of others.
///
/// Sources fill what they know (command line, the cluster's API, sockets, dumps), and [`merge`](Self::merge) unites them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Networks of pods.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Networks of services.
    pub service_cidrs: BTreeSet<IpNet>,
    /// Addresses or networks of the cluster's nodes.
    pub node_cidrs: BTreeSet<IpNet>,
    /// Addresses of the Kubernetes API server.
    pub api_servers: BTreeSet<IpAddr>,
    /// Addresses that this node speaks BGP with.
    pub bgp_peers: BTreeSet<IpAddr>,
    /// Tables with a default route that leads somewhere.
    pub defaults: BTreeSet<(u32, Family)>,
    /// Families whose packets the node forwards (`net.ipv4.conf.all.forwarding`).
    pub forwarding: BTreeSet<Family>,
    /// Neighbours that do not answer, by ifindex.
    pub silent: BTreeSet<(u32, IpAddr)>,
    /// Tables that hold routes of others and none of ours, each with what is there.
    pub occupied: BTreeMap<u32, String>,
    /// Interfaces that have moved into a VRF device.
    pub moved: DeviceRecord,
}

impl NodeFacts {
    /// Adds what another source knows.
    pub fn merge(&mut self, other: &Self) {
        let Self {
            pod_cidrs,
            service_cidrs,
            node_cidrs,
            api_servers,
            bgp_peers,
            defaults,
            forwarding,
            silent,
            occupied,
            moved,
        } = other.clone();
        self.pod_cidrs.extend(pod_cidrs);
        self.service_cidrs.extend(service_cidrs);
        self.node_cidrs.extend(node_cidrs);
        self.api_servers.extend(api_servers);
        self.bgp_peers.extend(bgp_peers);
        self.defaults.extend(defaults);
        self.forwarding.extend(forwarding);
        self.silent.extend(silent);
        self.occupied.extend(occupied);
        self.moved.extend(moved);
    }

    /// The cluster's networks: looked up in main before the rules of VRFs that ask for it, and never steered.
    pub fn cluster(&self) -> impl Iterator<Item = IpNet> + '_ {
        let networks = [&self.pod_cidrs, &self.service_cidrs, &self.node_cidrs];
        networks.into_iter().flatten().map(IpNet::trunc)
    }

    /// The destinations that go to main before a VRF's own rules and table.
    #[must_use]
    pub fn exceptions(&self, vrf: &Vrf) -> BTreeSet<IpNet> {
        let detected = vrf.auto_exceptions.then(|| self.cluster());
        vrf.exceptions.iter().map(IpNet::trunc).chain(detected.into_iter().flatten()).collect()
    }

    /// The prefixes that a kind of automatic protection stands for; the node's own addresses are those of its links.
    #[must_use]
    pub fn protected(&self, kind: AutoProtect) -> Vec<IpNet> {
        match kind {
            AutoProtect::PodCIDRs => self.pod_cidrs.iter().map(IpNet::trunc).collect(),
            AutoProtect::ServiceCIDRs => self.service_cidrs.iter().map(IpNet::trunc).collect(),
            AutoProtect::APIServer => self.api_servers.iter().copied().map(IpNet::from).collect(),
            AutoProtect::BGPPeers => self.bgp_peers.iter().copied().map(IpNet::from).collect(),
            AutoProtect::NodeAddresses => Vec::new(),
        }
    }
}
