//! Whether what is decided is written: the kill switch, the annotation, `apply.mode: DryRun`.
//!
//! While nothing is written everything else goes on: FPM is read and coalesced, plans are made, notifications and
//! audits tell what the kernel holds. What differs stays marked, and is written in one pass afterwards.

use std::path::{Path, PathBuf};
use std::time::Instant;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::probe::{self, Verdict};
use super::trial::{APPLIED_WITHIN, Progress};
use super::{Agent, Report, Todo, answer, persist};
use crate::api::{ApplyState, ApplyStatus};
use crate::control::{Change, Response};
use crate::intent::types::Config;

/// File in the state directory: while it is there, the agent is paused.
pub(super) const PAUSED: &str = "paused.json";

/// Who pressed the switch when, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pause {
    since: jiff::Timestamp,
    reason: String,
}

/// The kill switch. It holds over restarts, until somebody takes it back.
#[derive(Debug)]
pub(super) struct Switch {
    file: PathBuf,
    pause: Option<Pause>,
}

impl Switch {
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(PAUSED);
        // A file that cannot be read was one: to write nothing is the safe side.
        let unreadable =
            || Pause { since: jiff::Timestamp::now(), reason: format!("{} is damaged", file.display()) };
        let pause = file.exists().then(|| persist::read(&file).unwrap_or_else(unreadable));
        Self { file, pause }
    }

    /// Pauses. Pressed again it takes the new reason, and the time stays.
    fn pause(&mut self, reason: String) -> std::io::Result<()> {
        let since = self.pause.as_ref().map_or_else(jiff::Timestamp::now, |pause| pause.since);
        let pause = Pause { since, reason };
        persist::write(&self.file, &pause)?;
        self.pause = Some(pause);
        Ok(())
    }

    fn resume(&mut self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => self.pause = None,
        }
        Ok(())
    }
}

/// What decides: the switch before the annotation, either before the mode.
fn state(switch: &Switch, config: &Config) -> ApplyStatus {
    let (mode, by, reason, since) = match (&switch.pause, &config.paused) {
        (Some(pause), _) => (ApplyState::Paused, "backtrail pause", pause.reason.as_str(), Some(pause.since)),
        (None, Some(reason)) => (ApplyState::Paused, crate::api::PAUSED, reason.as_str(), None),
        (None, None) if config.dry_run => (ApplyState::DryRun, "apply.mode", "", None),
        (None, None) => (ApplyState::Enforce, "", "", None),
    };
    let (by, reason) = (by.to_owned(), reason.to_owned());
    ApplyStatus { mode, by, reason, since: since.map(Time), ..ApplyStatus::default() }
}

impl Agent {
    /// Whether, and why not, changes are written.
    pub(super) fn apply_state(&self) -> ApplyStatus {
        let would_change = self.would_change;
        ApplyStatus { would_change, ..state(&self.switch, &self.intent.config) }
    }

    /// Counts all that would change, while it does not: what `backtrail plan` lists.
    pub(super) fn count_changes(&mut self) {
        self.would_change = self.is_frozen().then(|| {
            let rules = self.environment.rule_changes(&self.engine.plan().rules);
            let mut counts = self.engine.would_change();
            counts.add += rules.add.len() as u64;
            counts.delete += rules.delete.len() as u64;
            for row in answer::besides(self) {
                match row.change {
                    Change::Add => counts.add += 1,
                    Change::Replace => counts.replace += 1,
                    Change::Delete => counts.delete += 1,
                }
            }
            counts
        });
    }

    /// Nothing may be written to the kernel, neither routes nor maps.
    pub(super) fn is_frozen(&self) -> bool {
        self.switch.pause.is_some() || self.intent.config.is_frozen()
    }

    /// Voids the nexthops that programs have cached; while nothing is written they expire after a second.
    pub(super) fn routes_changed(&mut self) {
        if !self.is_frozen() {
            self.steering.routes_changed();
        }
    }

    /// `backtrail pause`: answered once nothing is under way any more.
    pub(super) fn pause(&mut self, reason: Option<String>, reply: oneshot::Sender<Response>) {
        let reason = reason.unwrap_or_default();
        match self.switch.pause(reason) {
            Ok(()) => {
                tracing::warn!(reason = self.apply_state().reason, "paused: nothing is written any more");
                self.pausing.push(reply);
            }
            Err(error) => {
                let text = format!("the pause cannot be kept over a restart ({error}): see to --state-dir");
                drop(reply.send(Response::Error(text)));
            }
        }
    }

    /// `backtrail resume`: one pass over the kernel, with the difference.
    pub(super) fn resume(&mut self) -> Response {
        match self.switch.resume() {
            Ok(()) => {
                tracing::info!("resumed");
                self.thawed();
                Response::Apply(self.apply_state())
            }
            Err(error) => {
                Response::Error(format!("the pause cannot be taken back ({error}): see to --state-dir"))
            }
        }
    }

    /// Writing may go on: everything is compared, and what differs is written.
    pub(super) fn thawed(&mut self) {
        if !self.is_frozen() {
            self.engine.want_audit();
            self.todo = Todo { plan: true, steering: true, environment: true, survey: true };
            self.trial.thawed(Instant::now());
        }
    }

    /// How far what is in force has come into the kernel. Nothing else says that a change is applied.
    fn progress(&self) -> Progress {
        if self.awaits_survey() {
            return Progress::Unplanned;
        }
        let Todo { plan, steering, environment, survey } = self.todo;
        let failing = !self.environment.failures.is_empty() || self.steering.trouble().is_some();
        let writing = plan
            || steering
            || environment
            || self.steering.is_opening()
            // Before the first comparison has ended, no route goes out.
            || !self.engine.has_adopted()
            || !self.engine.is_idle()
            // A device that was made is joined only when the kernel has told of it.
            || (!failing && self.environment.has_device_work(&self.desired(), &self.observed));
        if writing {
            Progress::Writing
        } else if failing || (self.survey_needed() && (survey || self.surveying)) {
            Progress::Restless
        } else {
            Progress::Applied
        }
    }

    /// How far a change has come that is to be probed, while it may be written.
    fn trial_progress(&self) -> Option<Progress> {
        (self.trial.is_applying() && !self.is_frozen()).then(|| self.progress())
    }

    /// When a change on trial is probed if it comes no further.
    pub(super) fn probes_due(&self) -> Option<Instant> {
        self.trial.deadline(self.trial_progress()?)
    }

    /// Probes a change that is written.
    pub(super) fn start_probes(&mut self) {
        let Some(progress) = self.trial_progress() else { return };
        let Some(number) = self.trial.due(progress, Instant::now()) else { return };
        let (probes, reports) = (self.intent.config.probes.clone(), self.reports.clone());
        if progress == Progress::Applied {
            tracing::info!(probes = probes.len(), "the change is written: probing");
        } else {
            tracing::warn!(
                ?progress,
                "the change takes long to be written, or parts of it fail: it is judged now"
            );
        }
        tokio::spawn(async move {
            // There is nothing in the kernel that a probe could try.
            let verdict = if progress == Progress::Unplanned {
                Verdict::Failed(format!("not written within {} s", APPLIED_WITHIN.as_secs()))
            } else {
                probe::probe(probes).await
            };
            // The agent may be stopping.
            drop(reports.send(Report::Probed(number, verdict)).await);
        });
    }

    /// The probes' result: the change stays, or the former configuration comes back.
    pub(super) fn probed(&mut self, number: u64, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => tracing::info!("all probes have succeeded"),
            Verdict::Failed(text) => tracing::error!("the change failed: {text}"),
            Verdict::Impossible(text) => tracing::warn!("probe cannot be made: {text}"),
        }
        let Some(former) = self.trial.probed(number, verdict) else { return };
        self.metrics.apply.rollbacks.inc();
        let mut intent = self.manifests.build(&former, Some(&self.intent));
        self.persisted.keep_ownership(&mut intent);
        self.put_in_force(intent);
    }

    /// Answers those who paused, when what was under way has ended.
    pub(super) fn answer_pausing(&mut self) {
        if self.pausing.is_empty() || self.engine.is_writing() || self.steering.is_opening() {
            return;
        }
        let state = self.apply_state();
        for reply in self.pausing.drain(..) {
            // The client may have gone.
            drop(reply.send(Response::Apply(state.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_outlives_the_agent_and_comes_before_all_else() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { paused: Some("maintenance".to_owned()), dry_run: true, ..Config::default() };
        let mut switch = Switch::open(folder.path());
        let now = |switch: &Switch, config: &Config| {
            let state = state(switch, config);
            (state.mode, state.by, state.reason)
        };
        assert_eq!(now(&switch, &Config::default()).0, ApplyState::Enforce);
        let words = |mode, by: &str, reason: &str| (mode, by.to_owned(), reason.to_owned());
        let annotated = words(ApplyState::Paused, "backtrail.dev/paused", "maintenance");
        assert_eq!(now(&switch, &config), annotated);
        switch.pause("first".to_owned()).unwrap();
        let since = switch.pause.as_ref().map(|pause| pause.since);
        switch.pause("second".to_owned()).unwrap();
        let mut switch = Switch::open(folder.path());
        assert_eq!(now(&switch, &config), words(ApplyState::Paused, "backtrail pause", "second"));
        assert_eq!(switch.pause.as_ref().map(|pause| pause.since), since);
        switch.resume().unwrap();
        switch.resume().unwrap();
        let switch = Switch::open(folder.path());
        assert_eq!(now(&switch, &config), annotated);
        assert_eq!(
            now(&switch, &Config { paused: None, ..config }),
            words(ApplyState::DryRun, "apply.mode", "")
        );
    }

    #[test]
    fn a_damaged_file_still_pauses() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PAUSED), "{").unwrap();
        let state = state(&Switch::open(folder.path()), &Config::default());
        assert!(state.mode == ApplyState::Paused && state.reason.ends_with("is damaged"), "{state:?}");
    }
}
