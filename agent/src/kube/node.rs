//! This node and the networks of the cluster, as the API server knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::pace::{Pace, jitter};
use super::watch::Message;

/// What the cluster knows about this node and its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNode {
    /// `metadata.name` of the Node.
    pub name: String,
    /// `metadata.uid` of the Node; empty where there is none.
    pub uid: String,
    /// Labels, which `nodeSelector` is matched against.
    pub labels: BTreeMap<String, String>,
    /// Addresses in its status.
    pub addresses: BTreeSet<IpAddr>,
    /// Pod networks of this node.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Networks of the cluster.
    pub facts: Facts,
}

/// Networks of the cluster, where they can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// Service networks (ServiceCIDR objects, from Kubernetes 1.33 on).
    pub service_cidrs: BTreeSet<IpNet>,
    /// Addresses of the API servers.
    pub api_servers: BTreeSet<IpAddr>,
}

impl ClusterNode {
    /// What a Node says; what cannot be parsed is left out.
    pub(super) fn of(node: &Node, facts: Facts) -> Self {
        let status = node.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_ref());
        let spec = node.spec.as_ref();
        let cidrs = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
        let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            addresses: addresses.into_iter().flatten().filter_map(|it| it.address.parse().ok()).collect(),
            pod_cidrs: cidrs.chain(one).filter_map(|cidr| cidr.parse().ok()).collect(),
            facts,
        }
    }
}

/// Reads the cluster's networks now and then: they hardly ever change, and a watch for each agent would cost more.
pub(super) async fn poll_facts(client: Client, inbox: mpsc::Sender<Message>, pace: Pace) {
    let mut facts = Facts::default();
    loop {
        read_facts(&client, &mut facts).await;
        if inbox.send(Message::Facts(facts.clone())).await.is_err() {
            return;
        }
        tokio::time::sleep(jitter(pace.heartbeat)).await;
    }
}

/// What cannot be read stays as it was.
async fn read_facts(client: &Client, facts: &mut Facts) {
    match Api::<ServiceCIDR>::all(client.clone()).list(&ListParams::default()).await {
        Ok(list) => {
            let cidrs = list.items.into_iter().filter_map(|it| it.spec?.cidrs).flatten();
            facts.service_cidrs = cidrs.filter_map(|cidr| cidr.parse().ok()).collect();
        }
        Err(error) => tracing::debug!(%error, "service networks cannot be read"),
    }
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "default");
    match slices.list(&ListParams::default().labels("kubernetes.io/service-name=kubernetes")).await {
        Ok(list) => {
            let addresses =
                list.items.into_iter().flat_map(|slice| slice.endpoints).flat_map(|it| it.addresses);
            facts.api_servers = addresses.filter_map(|address| address.parse().ok()).collect();
        }
        Err(error) => tracing::debug!(%error, "addresses of the API servers cannot be read"),
    }
}
