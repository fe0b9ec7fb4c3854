//! Time, and what events made necessary: planned together once they pause.

use std::collections::BTreeSet;
use std::time::Instant;

use super::environment::Desired;
use super::{Agent, EXPIRE_EVERY, REFRESH_EVERY, RETRY_EVERY, SETTLE, Todo, report};
use crate::api::HashPolicy;
use crate::intent::types::VrfMode;
use crate::model::devices::Devices;
use crate::plan::steering::{SteeringInput, steering};
use crate::plan::{Plan, PlanInput, StaticRoute, interface_tables};
use crate::status::reason;

impl Agent {
    pub(super) fn deadline(&self) -> Instant {
        let mut next =
            self.comparison.due().min(self.next_expiry).min(self.next_retry).min(self.next_refresh);
        let steering = self.steering.retry_at().filter(|_| !self.todo.steering && !self.is_frozen());
        let others =
            [self.settle_at, steering, self.probes_due(), self.frr.deadline(), self.facts.deadline()];
        for at in [self.engine.deadline()].into_iter().chain(others) {
            next = at.map_or(next, |at| next.min(at));
        }
        if !self.listening {
            next = next.min(self.bulk.until());
        }
        if self.todo.survey && !self.surveying {
            next = next.min(self.next_survey);
        }
        next
    }

    pub(super) async fn on_time(&mut self) {
        let now = Instant::now();
        self.engine.tick(now);
        self.look_for_frr(now);
        if now >= self.comparison.due() {
            self.comparison.postpone(now);
            if self.comparison.blind {
                self.resynchronize().await;
            } else {
                self.engine.want_audit();
            }
            // Most sysctls are not notified of.
            self.todo.environment = true;
        }
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRE_EVERY;
            if !self.is_frozen() {
                self.steering.expire();
            }
        }
        if now >= self.next_refresh {
            report::refresh(self);
            self.engine.review_feedback();
            self.followers.refresh(&mut self.steering, &self.observed);
            // Counting a million routes takes a while: at most a fiftieth of the time goes into it.
            self.next_refresh = now + REFRESH_EVERY.max(now.elapsed() * 50);
        }
        if now >= self.next_retry {
            self.next_retry = now + RETRY_EVERY;
            self.listen_fpm();
            self.todo.environment |= !self.environment.failures.is_empty();
            self.todo.steering |= self.steering.is_disturbed();
            self.todo.plan |= self.facts.is_occupied() || self.engine.silent_tables(now).next().is_some();
        }
        self.todo.steering |= self.steering.retry_at().is_some_and(|at| now >= at && !self.is_frozen());
    }

    /// Plans and applies what events made necessary, once they pause for a moment.
    pub(super) async fn settle(&mut self) {
        let now = Instant::now();
        let Todo { plan, steering, environment, .. } = self.todo;
        if !(plan || steering || environment) {
            self.settle_at = None;
            return;
        }
        // What steering and filters need is planned with all the rest: else a restart would take it away first.
        if self.awaits_survey() {
            self.settle_at = None;
            return;
        }
        if now < *self.settle_at.get_or_insert(now + SETTLE) {
            return;
        }
        self.settle_at = None;
        self.todo = Todo { survey: self.todo.survey, ..Todo::default() };
        if plan {
            self.inspect_tables().await;
        }
        // Steering's routes and rules are part of the plan.
        self.plan_steering();
        if plan || steering {
            self.replan(now);
        }
        if self.is_frozen() {
            return self.environment.look(self.intent.config.rule_priorities, &self.metrics).await;
        }
        self.apply_environment().await;
        self.steering.apply(&self.steering_plan, now);
    }

    pub(super) fn plan_steering(&mut self) {
        let Some(survey) = &self.survey else { return };
        let links: Vec<_> = self.observed.links().values().cloned().collect();
        let tables = interface_tables(&self.intent, self.observed.links());
        let neighbours: Vec<_> = self.observed.neighbours().copied().collect();
        let mut gateways = survey.gateways.clone();
        for (ifindex, gateway) in self.engine.rib().gateways() {
            gateways.entry((ifindex, crate::model::Family::of_addr(&gateway))).or_default().insert(gateway);
        }
        let facts = self.node_facts();
        let excepted = self.intent.vrfs.iter().flat_map(|vrf| facts.exceptions(vrf));
        let cluster: BTreeSet<_> = excepted.chain(facts.cluster()).collect();
        self.steering_plan = steering(&SteeringInput {
            intent: &self.intent,
            links: &links,
            tables: &tables,
            gateways: &gateways,
            neighbours: &neighbours,
            carrying: &survey.carrying,
            defaults: &survey.defaults,
            cluster: &cluster,
        });
    }

    pub(super) fn replan(&mut self, now: Instant) {
        let began = Instant::now();
        let input = PlanInput {
            intent: &self.intent,
            links: self.observed.links(),
            zebra: self.engine.zebra_tables(),
            facts: &self.node_facts(),
        };
        let mut plan = Plan::compile(input);
        for route in &self.steering_plan.routes {
            let owner = self.intent.return_paths.iter().find_map(|path| path.owners.first());
            let Some(owner) = owner.cloned() else { continue };
            plan.static_routes
                .insert(route.key, StaticRoute { route: route.clone(), owner, purpose: reason::RETURN_PATH });
        }
        plan.rules.extend(self.steering_plan.rules.iter().cloned());
        self.metrics.plan.compile_seconds.observe(began.elapsed().as_secs_f64());
        self.engine.set_plan(plan, now);
        self.planned = true;
    }

    /// What should be there besides routes.
    pub(super) fn desired(&self) -> Desired {
        let plan = self.engine.plan();
        let mut sysctls = plan.sysctls.clone();
        // Both ask for the filter of an interface in both; steering knows of the sink too.
        sysctls.extend(self.steering_plan.sysctls.clone());
        if !plan.imports.is_empty() {
            // Without it the change of one nexthop rewrites every route that uses it: a second for a million.
            sysctls.insert("net/ipv4/nexthop_compat_mode".to_owned(), "0".to_owned());
        }
        if let Some(policy) = hash_policy(self.intent.hash_policy) {
            for family in ["ipv4", "ipv6"] {
                sysctls.insert(format!("net/{family}/fib_multipath_hash_policy"), policy.to_string());
            }
        }
        let usable = self.observed.usable();
        let watched = self.watched.union(&plan.watched_gateways).copied();
        let watched = watched.filter(|(ifindex, _)| usable.contains(ifindex));
        let neighbours = self.steering_plan.managed_neighbours.iter().copied().chain(watched).collect();
        Desired {
            rules: plan.rules.clone(),
            devices: Devices { sink: self.steering_plan.sink, ..plan.devices.clone() },
            l3mdev: self.intent.vrfs.iter().any(|vrf| vrf.mode != VrfMode::TableOnly),
            sysctls,
            neighbours,
        }
    }

    pub(super) async fn apply_environment(&mut self) {
        let desired = self.desired();
        let band = self.intent.config.rule_priorities;
        self.environment.apply(&desired, &self.observed, band, &self.metrics).await;
    }
}

/// The value of `fib_multipath_hash_policy` (Documentation/networking/ip-sysctl.rst); `None`: hands off.
fn hash_policy(policy: HashPolicy) -> Option<u8> {
    match policy {
        HashPolicy::Unmanaged => None,
        HashPolicy::L3 => Some(0),
        HashPolicy::L4 => Some(1),
        HashPolicy::Inner => Some(2),
    }
}
