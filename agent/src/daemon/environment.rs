//! The few objects besides routes: rules, devices, addresses, sysctls, neighbours. Compared and changed one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::kernel::KernelError;
use crate::kernel::actions::Actions;
use crate::kernel::devices::DeviceWriter;
use crate::kernel::observe;
use crate::kernel::sysctl::Sysctls;
use crate::metrics::{Cause, Metrics, Operation};
use crate::model::devices::{DeviceRecord, Devices};
use crate::model::{Family, Rule, RuleAction};
use crate::reconcile::{RuleChanges, admissible, device_ops, diff_rules};

use super::observed::Observed;

/// What should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Desired {
    pub(super) rules: BTreeSet<Rule>,
    pub(super) devices: Devices,
    /// The tables of VRF devices are looked up by the kernel's l3mdev rules.
    pub(super) l3mdev: bool,
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) neighbours: BTreeSet<(u32, IpAddr)>,
}

/// The edge's handles, and what of it is ours.
pub(super) struct Environment {
    actions: Actions,
    devices: DeviceWriter,
    pub(super) sysctls: Sysctls,
    protocol: u8,
    managed: BTreeSet<(u32, IpAddr)>,
    /// What went wrong in the last pass: (object, what and the fix).
    pub(super) failures: Vec<(String, String)>,
    /// Rules of others within our band.
    pub(super) foreign_rules: Vec<Rule>,
    /// Rules of ours that are not added for the sake of those.
    pub(super) refused_rules: Vec<Rule>,
    /// Rules that were mended because somebody else removed or added one.
    pub(super) mended: u64,
    /// The latest sysctl that somebody else changed, and how many were.
    pub(super) reset: Option<(String, u64)>,
    /// Rules of ours that the last pass left in the kernel; before the first one nobody knows.
    in_force: Option<BTreeSet<Rule>>,
    /// All rules of the namespace, as last seen or made, in the kernel's order.
    rules: Vec<Rule>,
}

impl Environment {
    pub(super) fn new(actions: Actions, devices: DeviceWriter, sysctls: Sysctls, protocol: u8) -> Self {
        Self {
            actions,
            devices,
            sysctls,
            protocol,
            managed: BTreeSet::new(),
            failures: Vec::new(),
            foreign_rules: Vec::new(),
            refused_rules: Vec::new(),
            mended: 0,
            reset: None,
            in_force: None,
            rules: Vec::new(),
        }
    }

    /// Whether a rule is one that the last pass left in the kernel.
    pub(super) fn is_in_force(&self, rule: &Rule) -> bool {
        self.in_force.as_ref().is_some_and(|rules| rules.contains(rule))
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
        // An interface that leaves its VRF device keeps its addresses by a sysctl, which is put back after that.
        self.set_sysctls(desired, metrics);
        self.devices(desired, observed, metrics).await;
        self.restore_sysctls(desired, metrics);
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
        let known = self.in_force.is_some();
        let in_force = self.in_force.take().unwrap_or_else(|| self.own_rules().collect());
        let (admitted, held) = admissible(&desired.rules, &in_force, &self.foreign_rules);
        self.refused_rules = held;
        let changes = self.rule_changes(&admitted);
        // What an earlier agent left is nobody's deed.
        if known {
            let removed = changes.add.iter().filter(|rule| in_force.contains(rule));
            let added =
                changes.delete.iter().filter(|rule| !in_force.contains(rule) || admitted.contains(rule));
            let mended = (removed.count() + added.count()) as u64;
            self.mended += mended;
            metrics.reconcile.drift_mended.get_or_create(&Cause { cause: "rule" }).inc_by(mended);
        }
        for rule in &changes.add {
            let result = self.actions.add_rule(rule).await;
            let added = self.note(metrics, "add", "rule", result);
            self.rules.extend(added.map(|()| rule.clone()));
        }
        for rule in &changes.delete {
            let result = self.actions.del_rule(rule, &mut self.rules).await;
            self.note(metrics, "delete", "rule", result);
        }
        // What the kernel refuses was never in force: that it is missing is nobody's deed.
        let kept = in_force.intersection(&admitted).cloned();
        self.in_force = Some(kept.chain(self.own_rules()).collect());
        self.l3mdev(desired, metrics).await;
    }

    fn own_rules(&self) -> impl Iterator<Item = Rule> + '_ {
        self.rules.iter().filter(|rule| rule.protocol == self.protocol).cloned()
    }

    /// Puts back the rules that the kernel makes with a namespace's first VRF device, and never again. They are the
    /// kernel's: `cleanup` leaves them, for the devices of others need them.
    async fn l3mdev(&mut self, desired: &Desired, metrics: &Metrics) {
        let present =
            |family| self.rules.iter().any(|rule| rule.family == family && rule.action == RuleAction::L3mdev);
        let missing = Family::ALL.into_iter().filter(|family| desired.l3mdev && !present(*family));
        for family in missing.collect::<Vec<_>>() {
            let result = self.actions.add_rule(&Rule::l3mdev(family)).await;
            self.note(metrics, "add", "rule", result);
        }
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

    /// What was changed on interfaces of others.
    pub(super) fn device_record(&self) -> &DeviceRecord {
        self.devices.record()
    }

    /// Whether interfaces are not as desired yet, as far as the kernel has told.
    pub(super) fn has_device_work(&self, desired: &Desired, observed: &Observed) -> bool {
        !device_ops(&desired.devices, observed.links(), self.devices.record()).is_empty()
    }

    async fn devices(&mut self, desired: &Desired, observed: &Observed, metrics: &Metrics) {
        for op in device_ops(&desired.devices, observed.links(), self.devices.record()) {
            tracing::info!("{op}");
            let (verb, kind) = op.words();
            let result = self.devices.apply(&op).await;
            self.note(metrics, verb, kind, result);
        }
    }

    fn set_sysctls(&mut self, desired: &Desired, metrics: &Metrics) {
        for (key, value) in &desired.sysctls {
            let same = self.sysctls.get(key).is_ok_and(|now| now == *value);
            if !same {
                if self.sysctls.is_ours(key, value) {
                    tracing::warn!(cause = "sysctl", "drift: {key} was changed by somebody else");
                    metrics.reconcile.drift_mended.get_or_create(&Cause { cause: "sysctl" }).inc();
                    self.reset = Some((key.clone(), self.reset.as_ref().map_or(1, |(_, before)| before + 1)));
                }
                let result = self.sysctls.set(key, value);
                self.note(metrics, "replace", "sysctl", result);
            }
        }
    }

    fn restore_sysctls(&mut self, desired: &Desired, metrics: &Metrics) {
        self.sysctls.follow();
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

    /// Forgets that a neighbour is managed, for somebody removed its entry; false: it was not.
    pub(super) fn neighbour_gone(&mut self, ifindex: u32, address: IpAddr) -> bool {
        self.managed.remove(&(ifindex, address))
    }

    /// Forgets that neighbours of this link are managed: the kernel dropped its entries.
    pub(super) fn link_flushed(&mut self, ifindex: u32) {
        self.managed.retain(|(on, _)| *on != ifindex);
    }
}
