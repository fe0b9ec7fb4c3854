//! What happens: each event changes state and notes what has to be done again.

use std::net::IpAddr;
use std::time::Instant;

use zebra_fpm::Update;
use zebra_fpm::server::{DisconnectReason, Event};

use super::drift::Author;
use super::trial::{Candidate, Offer};
use super::{Agent, RETRY_EVERY, Report, SURVEY_EVERY, Todo, answer, measure};
use crate::control::{Call, Request};
use crate::intent::types::Intent;
use crate::kernel::monitor::Notification;
use crate::kernel::{KernelError, observe};
use crate::model::ops::{BatchDone, RouteOp};
use crate::model::{KernelRoute, NeighbourState};

/// How a route changed by others' hands.
#[derive(Clone, Copy)]
struct RouteChange {
    added: bool,
    replaced: bool,
    port: u32,
}

impl Agent {
    pub(super) fn on_fpm(&mut self, event: Option<Event>) {
        let now = Instant::now();
        let Some(event) = event else {
            self.fpm.listen = None;
            self.fpm_events = None;
            return;
        };
        if matches!(event, Event::Connected { .. } | Event::Disconnected { .. } | Event::Refused { .. }) {
            self.frr.look_again(now);
        }
        match event {
            Event::Connected { epoch, peer } => {
                tracing::info!(%epoch, %peer, "zebra connected");
                self.fpm.connected = true;
                self.fpm.epoch = epoch.0;
                self.fpm.peer = Some(peer);
                self.fpm.replay_began = Some(now);
                self.fpm.replay_compared = None;
                self.metrics.fpm.sessions.inc();
                self.facts.ask_peers = true;
                self.engine.fpm_connected(now);
                self.probe_feedback();
            }
            Event::Updates { updates, pid, .. } => self.on_updates(updates, pid, now),
            Event::ReplayComplete { epoch, .. } => {
                tracing::info!(%epoch, routes = self.engine.rib().len(), "FRR's replay is complete");
                let compared = self.fpm.replay_compared.unwrap_or(now);
                if let Some(began) = self.fpm.replay_began.take() {
                    self.metrics
                        .fpm
                        .replay_seconds
                        .set(compared.saturating_duration_since(began).as_secs_f64());
                }
                // Imports into VRFs wait for the first one.
                self.todo.plan |= !self.engine.zebra_tables().complete;
                self.engine.fpm_replay_complete(now);
            }
            Event::Disconnected { epoch, reason } => {
                tracing::warn!(%epoch, %reason, "FPM session ended; its routes are kept as onFeedLoss says");
                self.fpm.connected = false;
                if !matches!(reason, DisconnectReason::Superseded(_)) {
                    self.fpm.second_client = None;
                }
                self.fpm.malformed += u64::from(matches!(reason, DisconnectReason::Malformed(_)));
                self.fpm.last_disconnect = Some(reason.to_string());
                self.engine.fpm_disconnected(now);
            }
            Event::Refused { peer, reason } => {
                tracing::warn!(%peer, %reason, "FPM client refused");
                self.metrics.fpm.refused.inc();
                self.fpm.last_disconnect = Some(format!("refused {peer}: {reason}"));
            }
            Event::Superseded { old_peer, new_peer, .. } => {
                tracing::warn!(%old_peer, %new_peer, "a second FPM client took over: two zebras?");
                self.fpm.second_client = Some((old_peer, new_peer));
            }
        }
    }

    fn on_updates(&mut self, updates: Vec<Update>, pid: Option<u32>, now: Instant) {
        if self.fpm.replay_began.is_some() {
            // zebra takes its time between connecting and the first byte.
            if !self.fpm.replaying && self.fpm.replay_compared.is_none() {
                self.fpm.replay_began = Some(now);
            }
            self.fpm.replaying = true;
        }
        self.fpm.last_message = Some(jiff::Timestamp::now());
        if let Some(pid) = pid {
            self.engine.fpm_pid(pid);
        }
        let tables = self.engine.zebra_tables().tables.len();
        self.engine.fpm_updates(&updates, now);
        self.engine.fpm_taken(Instant::now());
        // A table that FRR writes is a table that nothing else may write.
        self.todo.plan |= self.engine.zebra_tables().tables.len() != tables;
        let nexthops = measure::count_updates(&self.metrics, &updates) > 0;
        self.todo.survey |= nexthops;
        // Nexthops come with new sessions.
        self.facts.ask_peers |= nexthops;
        if let Some(events) = &self.fpm_events {
            events.recycle(updates);
        }
    }

    pub(super) fn on_batch(&mut self, done: &BatchDone) {
        measure::count_batch(&self.metrics, done);
        let now = Instant::now();
        self.engine.batch_done(done, now);
        if done.ops.iter().any(|op| matches!(op, RouteOp::ReplaceNexthop(_)))
            && let Some(since) = self.failover_since.take()
        {
            let took = now.saturating_duration_since(since);
            self.metrics.reconcile.failover_seconds.observe(took.as_secs_f64());
        }
        if let Some(latency) = self.engine.take_latency() {
            self.metrics.reconcile.convergence_seconds.observe(latency.as_secs_f64());
        }
        self.routes_changed();
        self.todo.survey |= !self.steering_plan.interfaces.is_empty();
    }

    pub(super) async fn on_notification(&mut self, notification: Notification) {
        let now = Instant::now();
        self.metrics.kernel.notifications.inc();
        match &notification {
            Notification::Overrun => {
                self.metrics.kernel.overruns.inc();
                tracing::warn!("netlink notifications were lost; comparing everything");
                self.resynchronize().await;
            }
            Notification::Route { route, added, replaced, own: false, port } => {
                let change = RouteChange { added: *added, replaced: *replaced, port: *port };
                self.on_route(route, change, now);
            }
            Notification::NexthopGone { id, own: false, port } => {
                if self.engine.nexthop_vanished(*id, now) {
                    let what = format!("nexthop object {} deleted", id.0);
                    self.drift.note(&self.metrics, "nexthop", what, Author::Port(*port));
                }
                self.todo.survey = true;
            }
            Notification::Nexthop { object, own: false, port } => {
                if self.engine.nexthop_written(object, now) {
                    let what = format!("nexthop object {} replaced", object.id.0);
                    self.drift.note(&self.metrics, "nexthop", what, Author::Port(*port));
                }
                self.todo.survey = true;
            }
            Notification::Rule { rule, added, port } => {
                if !added && self.environment.is_in_force(rule) {
                    self.drift.keep("rule", format!("rule {rule} deleted"), Author::Port(*port));
                }
                self.todo.environment = true;
            }
            Notification::Settings => self.todo.environment = true,
            Notification::Neighbour(neighbour) => {
                let state = Some(neighbour.state);
                self.on_neighbour(neighbour.ifindex, neighbour.address, state, now);
            }
            Notification::NeighbourGone { ifindex, address } => {
                self.todo.environment |= self.environment.neighbour_gone(*ifindex, *address);
                self.on_neighbour(*ifindex, *address, None, now);
            }
            _ => {}
        }
        let effect = self.observed.apply(&notification);
        if effect.links {
            self.links_changed(now);
        }
        self.todo.steering |= effect.neighbours;
    }

    fn on_neighbour(&mut self, ifindex: u32, address: IpAddr, state: Option<NeighbourState>, now: Instant) {
        let silent = |agent: &Self| agent.engine.silent_gateways().any(|at| at == (ifindex, address));
        let fixed = self.engine.plan().watched_gateways.contains(&(ifindex, address));
        let before = fixed && silent(self);
        let concerns = self.engine.neighbour_changed(ifindex, address, state, now);
        // Static routes carry their gateways themselves.
        self.todo.plan |= fixed && before != silent(self);
        if concerns {
            tracing::info!(%address, interface = self.observed.name(ifindex), ?state, "a path's gateway changed");
            // Packets are being lost: before anything else is planned.
            self.failover_since.get_or_insert(now);
            self.pump();
        }
    }

    fn on_route(&mut self, route: &KernelRoute, change: RouteChange, now: Instant) {
        let ours = route.protocol == self.intent.config.route_protocol;
        if ours && change.added {
            self.engine.route_appeared();
        } else if ours || change.replaced {
            // A replaced route is not notified of: only the one that took its place.
            if self.engine.route_vanished(route, now) {
                let (done, author) = match ours {
                    true => ("deleted", Author::Port(change.port)),
                    false => ("replaced", Author::Protocol(route.protocol)),
                };
                self.drift.note(&self.metrics, "route", format!("route {} {done}", route.key), author);
            }
        } else if change.added {
            self.engine.foreign_appeared(route);
        } else {
            self.engine.key_freed(&route.key, now);
        }
        self.routes_changed();
        self.todo.survey = true;
    }

    pub(super) fn links_changed(&mut self, now: Instant) {
        let flushed = self.observed.take_flushed();
        for ifindex in &flushed {
            self.environment.link_flushed(*ifindex);
        }
        let (lost, back) = self.outages.update(self.observed.links(), now);
        for ifindex in lost {
            let interface = self.observed.name(ifindex).unwrap_or_default();
            tracing::warn!(interface, "down, or without carrier: the kernel drops what goes by it alone");
        }
        for (ifindex, time) in back {
            let interface = self.observed.name(ifindex).unwrap_or_default();
            let seconds = format!("{:.1}", time.as_secs_f64());
            tracing::info!(interface, "usable again after {seconds} s: what went by it is put back");
        }
        self.engine.links_flushed(&flushed, now);
        self.engine.set_usable_links(self.observed.usable(), now);
        if !self.failed_sessions.is_empty() {
            self.judge_sessions(now);
        }
        self.routes_changed();
        self.todo = Todo { plan: true, steering: true, environment: true, survey: true };
    }

    pub(super) async fn resynchronize(&mut self) {
        let read = (observe::links().await, observe::neighbours().await);
        let now = Instant::now();
        self.comparison.blind = false;
        match read {
            (Ok(links), Ok(neighbours)) => {
                self.observed.reset(links, neighbours);
                self.engine.neighbours_seen(self.observed.neighbours(), now);
            }
            (Err(error), _) | (_, Err(error)) => {
                self.comparison.blind = true;
                self.comparison.failed(&error, now);
            }
        }
        self.engine.want_audit();
        self.links_changed(now);
    }

    pub(super) fn on_report(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::AuditBegin(objects) => self.audit = Some(self.engine.begin_audit(&objects, now)),
            Report::AuditRoutes(routes) => {
                if let Some(audit) = &mut self.audit {
                    self.engine.audit_routes(audit, &routes, now);
                }
            }
            Report::AuditEnd(result) => self.audit_ended(result, now),
            Report::FeedbackSupport(epoch, support) => self.feedback_probed(epoch, support),
            Report::Zebra(zebra) => self.frr.seen(zebra),
            Report::Probed(number, verdict) => self.probed(number, &verdict),
            Report::Peers(found) => self.todo.plan |= self.facts.peers(found, now),
            Report::Survey(result, took) => {
                self.surveying = false;
                self.next_survey = now + (took * 20).max(SURVEY_EVERY);
                self.metrics.kernel.dump_seconds.observe(took.as_secs_f64());
                match result {
                    Ok(survey) => {
                        // Filters of VRFs depend on it too: what is planned for steering is planned for all.
                        self.todo.steering |= self.survey.as_ref() != Some(&survey);
                        self.survey = Some(survey);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot survey the kernel's routes");
                        self.todo.survey = true;
                        self.next_survey = now + RETRY_EVERY;
                    }
                }
            }
        }
    }

    pub(super) fn audit_ended(&mut self, result: Result<(), KernelError>, now: Instant) {
        self.audit_lag = false;
        let audit = self.audit.take();
        if let Err(error) = result {
            self.engine.abort_audit();
            return self.comparison.failed(&error, now);
        }
        // One that gave way to a load has been asked for again.
        let Some(mut audit) = audit else { return self.engine.abort_audit() };
        self.engine.finish_audit(&mut audit, now);
        self.comparison.succeeded(now);
        // The first one takes over what an earlier agent left.
        if audit.differences > 0 && self.metrics.reconcile.passes.get() > 0 {
            let what = format!("{} routes differed in a full comparison", audit.differences);
            self.drift.note(&self.metrics, "audit", what, Author::Unseen);
        }
        self.metrics.reconcile.passes.inc();
        let (routes, differences) = (audit.routes, audit.differences);
        tracing::debug!(routes, differences, "compared with the kernel");
    }

    pub(super) fn on_call(&mut self, call: Call) {
        let response = match call.request {
            Request::Pause { reason } => return self.pause(reason, call.reply),
            Request::Resume => self.resume(),
            Request::Events { after } => {
                return self.followers.ask(after, call.reply, &mut self.steering);
            }
            Request::Explain { target, iif } => return self.explain(target, iif.as_deref(), call.reply),
            request => answer::answer(self, request),
        };
        // The client may have gone.
        drop(call.reply.send(response));
    }

    /// Puts another intent in force, at the next pass.
    pub(super) fn put_in_force(&mut self, intent: Intent) {
        let frozen = self.is_frozen();
        self.intent = intent;
        self.todo = Todo { plan: true, steering: true, environment: true, survey: true };
        if frozen {
            self.thawed();
        }
        self.listen_fpm();
        self.settle_feedback();
    }

    pub(super) fn reload(&mut self, why: &str) {
        self.frr.look_again(Instant::now());
        let loaded = self.manifests.load(Some(&self.intent)).map(|mut intent| {
            self.persisted.keep_ownership(&mut intent);
            intent
        });
        match loaded {
            Ok(intent) if intent == self.intent => {
                tracing::info!(why, "manifests read: nothing changed");
                self.trial.unchanged();
            }
            Ok(intent) => {
                let (loaded, hash) = (self.manifests.loaded(), self.manifests.hash());
                let read = Candidate { loaded, hash: &hash, config: &intent.config };
                match self.trial.offer(read, Instant::now()) {
                    Offer::Accepted => {
                        tracing::info!(why, "manifests read: intent changed");
                        self.put_in_force(intent);
                    }
                    Offer::Refused => {
                        tracing::warn!(
                            why,
                            "manifests read: a probe failed after them, they are not tried again until edited"
                        );
                    }
                }
            }
            Err(error) => {
                tracing::error!(why, "manifests cannot be read, the former ones stay in force: {error:#}");
            }
        }
        measure::count_reload(&self.metrics, &self.manifests);
    }
}
