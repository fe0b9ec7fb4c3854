//! The few objects besides routes: rules, devices, addresses, sysctls, neighbours. Compared and changed one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::kernel::KernelError;
use crate::kernel::actions::{ALIAS, Actions};
use crate::kernel::observe;
use crate::kernel::sysctl::Sysctls;
use crate::metrics::{Metrics, Operation};
use crate::model::{Address, Rule};
use crate::plan::DevicePlan;
use crate::plan::steering::SINK_NAME;
use crate::reconcile::{RuleChanges, diff_rules};

use super::observed::Observed;

/// What should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) rules: BTreeSet<Rule>,
    pub(super) devices: Vec<DevicePlan>,
    pub(super) sink: bool,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) neighbours: BTreeSet<(u32, IpAddr)>,
}

/// The edge's handles, and what of it is ours.
pub(super) struct Environment {
    actions: Actions,
    pub(super) sysctls: Sysctls,
    protocol: u8,
    managed: BTreeSet<(u32, IpAddr)>,
    /// What went wrong in the last pass: (object, what and the fix).
    pub(super) failures: Vec<(String, String)>,
    /// Rules of others within our band.
    pub(super) foreign_rules: Vec<Rule>,
    /// Rules that were mended because somebody else removed or added one.
    pub(super) mended: u64,
    applied_rules: BTreeSet<Rule>,
    /// All rules of the namespace, as last seen or made.
    rules: Vec<Rule>,
}

impl Environment {
    pub(super) fn new(actions: Actions, sysctls: Sysctls, protocol: u8) -> Self {
        Self {
            actions,
            sysctls,
            protocol,
            managed: BTreeSet::new(),
            failures: Vec::new(),
            foreign_rules: Vec::new(),
            mended: 0,
            applied_rules: BTreeSet::new(),
            rules: Vec::new(),
        }
    }

    /// What would have to change for the rules to be as desired.
    pub(super) fn rule_changes(&self, desired: &BTreeSet<Rule>) -> RuleChanges {
        diff_rules(desired, &self.rules, self.protocol)
    }

    /// Sees what is there and changes nothing.
    pub(super) async fn look(&mut self, band: (u32, u32), metrics: &Metrics) {
        self.failures.clear();
        self.observe_rules(band, metrics).await;
    }

    /// Brings everything to what is desired; what fails is noted and does not stop the rest.
    pub(super) async fn apply(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        band: (u32, u32),
        metrics: &Metrics,
    ) {
        self.failures.clear();
        // Rules that lead to a table come after the sysctls that make the table usable, and before programs steer.
        self.sysctls(desired, metrics);
        self.devices(desired, observed, metrics).await;
        self.rules(desired, band, metrics).await;
        self.neighbours(desired, metrics).await;
    }

    fn note<T>(
        &mut self,
        metrics: &Metrics,
        op: &'static str,
        kind: &'static str,
        result: Result<T, KernelError>,
    ) -> Option<T> {
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics.reconcile.operations.get_or_create(&Operation { op, kind, result: outcome }).inc();
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(%error, "{op} {kind}");
                self.failures.push((kind.to_owned(), error.to_string()));
                None
            }
        }
    }

    async fn rules(&mut self, desired: &Desired, band: (u32, u32), metrics: &Metrics) {
        if !self.observe_rules(band, metrics).await {
            return;
        }
        let changes = self.rule_changes(&desired.rules);
        if desired.rules == self.applied_rules && !changes.is_empty() {
            self.mended += 1;
            metrics.reconcile.drift_mended.get_or_create(&crate::metrics::Cause { cause: "rule" }).inc();
        }
        for rule in &changes.add {
            let result = self.actions.add_rule(rule).await;
            let added = self.note(metrics, "add", "rule", result);
            self.rules.extend(added.map(|()| rule.clone()));
        }
        for rule in &changes.delete {
            let result = self.actions.del_rule(rule).await;
            if self.note(metrics, "delete", "rule", result).is_some() {
                self.rules.iter().position(|known| known == rule).map(|at| self.rules.swap_remove(at));
            }
        }
        self.applied_rules.clone_from(&desired.rules);
    }

    /// Whether the rules could be read.
    async fn observe_rules(&mut self, band: (u32, u32), metrics: &Metrics) -> bool {
        let result = observe::rules().await;
        let Some(rules) = self.note(metrics, "dump", "rule", result) else { return false };
        let foreign =
            |rule: &&Rule| (band.0..=band.1).contains(&rule.priority) && rule.protocol != self.protocol;
        self.foreign_rules = rules.iter().filter(foreign).cloned().collect();
        self.rules = rules;
        true
    }

    async fn devices(&mut self, desired: &Desired, observed: &Observed, metrics: &Metrics) {
        for device in &desired.devices {
            self.device(device, observed, metrics).await;
        }
        match (desired.sink, observed.by_name(SINK_NAME)) {
            (true, None) => {
                let result = self.actions.create_sink(SINK_NAME).await;
                self.note(metrics, "add", "link", result);
            }
            (true, Some(link)) if !link.up => {
                let result = self.actions.set_up(link.ifindex).await;
                self.note(metrics, "replace", "link", result);
            }
            _ => {}
        }
        let wanted = |name: &str| {
            (desired.sink && name == SINK_NAME)
                || desired.devices.iter().any(|d| d.vlan.is_some() && d.name == name)
        };
        let ours = |link: &&crate::model::Link| link.alias.as_deref() == Some(ALIAS) && !wanted(&link.name);
        for link in observed.links().values().filter(ours) {
            let result = self.actions.delete_link(link.ifindex).await;
            self.note(metrics, "delete", "link", result);
        }
    }

    async fn device(&mut self, device: &DevicePlan, observed: &Observed, metrics: &Metrics) {
        let Some(link) = observed.by_name(&device.name) else {
            // Made now; its addresses follow with the notification of its appearance.
            if let Some(vlan) = &device.vlan
                && let Some(parent) = observed.by_name(&vlan.parent)
            {
                let made = self.actions.create_vlan(&device.name, parent.ifindex, vlan.id, vlan.mtu).await;
                if let Some(ifindex) = self.note(metrics, "add", "link", made) {
                    let up = self.actions.set_up(ifindex).await;
                    self.note(metrics, "replace", "link", up);
                }
            }
            return;
        };
        for net in &device.addresses {
            if link.addresses.iter().all(|address| address.net != *net) {
                let address =
                    Address { net: *net, peer: None, no_prefix_route: false, tentative: false, metric: 0 };
                let result = self.actions.add_address(link.ifindex, &address).await;
                self.note(metrics, "add", "link", result);
            }
        }
    }

    fn sysctls(&mut self, desired: &Desired, metrics: &Metrics) {
        let stale: Vec<String> = self
            .sysctls
            .recorded()
            .map(|(key, _)| key.to_owned())
            .filter(|key| !desired.sysctls.contains_key(key))
            .collect();
        for key in stale {
            let result = self.sysctls.restore(&key);
            self.note(metrics, "delete", "sysctl", result);
        }
        for (key, value) in &desired.sysctls {
            let same = self.sysctls.get(key).is_ok_and(|now| now == *value);
            if !same {
                let result = self.sysctls.set(key, value);
                self.note(metrics, "replace", "sysctl", result);
            }
        }
    }

    async fn neighbours(&mut self, desired: &Desired, metrics: &Metrics) {
        let old: Vec<(u32, IpAddr)> = self.managed.difference(&desired.neighbours).copied().collect();
        for (ifindex, address) in old {
            self.managed.remove(&(ifindex, address));
            // The interface may be gone, and the entry with it.
            if let Err(error) = self.actions.manage_neighbour(ifindex, address, false).await
                && !error.is_absent()
            {
                tracing::debug!(%error, "release a neighbour");
            }
        }
        let new: Vec<(u32, IpAddr)> = desired.neighbours.difference(&self.managed).copied().collect();
        for (ifindex, address) in new {
            let result = self.actions.manage_neighbour(ifindex, address, true).await;
            if self.note(metrics, "add", "neighbour", result).is_some() {
                self.managed.insert((ifindex, address));
            }
        }
    }

    /// Forgets that neighbours of this link are managed: the kernel dropped its entries.
    pub(super) fn link_flushed(&mut self, ifindex: u32) {
        self.managed.retain(|(on, _)| *on != ifindex);
    }
}
