//! A change of the configuration on trial: in force, then probed, then kept or taken back.
//!
//! Pure but for the file that carries it over a restart. The daemon tells what was read, when it is applied and what the
//! probes found; it is told what to put in force.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::persist;
use super::probe::Verdict;
use crate::intent::Loaded;
use crate::intent::types::Config;

/// File in the state directory, while a change is on trial or was taken back.
pub(super) const TRIAL: &str = "trial.json";
/// A change is probed when the kernel has it, or after this long: routes may come and go all the time.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// A configuration after which a probe failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Failure {
    /// [`Candidate::hash`] of the configuration.
    hash: String,
    /// Which probe, and what it met.
    pub(super) message: String,
    /// Whether the former configuration is in force again.
    pub(super) rolled_back: bool,
}

/// What outlives the agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    /// The last configuration that stood its trial.
    former: Option<Loaded>,
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Quiet,
    /// Being written since then.
    Applying(Instant),
    Probing,
}

/// What to do with a configuration that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Put it in force.
    Accepted,
    /// It was taken back and has not been edited since: what is in force stays.
    Refused,
}

/// A configuration that was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// The manifests.
    pub(super) loaded: &'a Loaded,
    /// What they ask for, whatever is in force: the same before a restart and after it.
    pub(super) hash: &'a str,
    /// Its probes.
    pub(super) config: &'a Config,
}

/// The trial.
#[derive(Debug)]
pub(super) struct Trial {
    file: PathBuf,
    kept: Kept,
    /// What is in force, and its [`Candidate::hash`].
    in_force: Loaded,
    hash: String,
    stage: Stage,
    /// Counts trials, so that the result of an older one is told apart.
    number: u64,
}

impl Trial {
    /// Takes up what an earlier agent left.
    pub(super) fn open(state_dir: &Path) -> Self {
        let file = state_dir.join(TRIAL);
        let kept = persist::read(&file).unwrap_or_default();
        Self { file, kept, in_force: Loaded::default(), hash: String::new(), stage: Stage::Quiet, number: 0 }
    }

    /// What the agent starts with: the former manifests, where these were taken back.
    pub(super) fn start(&mut self, read: Candidate<'_>, now: Instant) -> Option<Loaded> {
        let refused = self.refuses(read.hash);
        if let Some(former) = self.kept.former.clone().filter(|_| refused) {
            self.in_force.clone_from(&former);
            return Some(former);
        }
        self.take(read);
        // An agent that died in the middle of a trial left the way back.
        if self.kept.former.is_some() && !read.config.probes.is_empty() {
            self.begin(now);
        } else {
            self.end(Kept::default());
        }
        None
    }

    fn refuses(&self, hash: &str) -> bool {
        self.kept.failure.as_ref().is_some_and(|failure| failure.rolled_back && failure.hash == hash)
    }

    fn take(&mut self, read: Candidate<'_>) {
        self.in_force.clone_from(read.loaded);
        read.hash.clone_into(&mut self.hash);
    }

    /// Judges a configuration that was read, before it is put in force.
    pub(super) fn offer(&mut self, read: Candidate<'_>, now: Instant) -> Offer {
        if self.refuses(read.hash) {
            return Offer::Refused;
        }
        let former = match (&self.kept.former, self.stage) {
            // One that has not stood its trial is nothing to go back to.
            (Some(former), Stage::Applying(_) | Stage::Probing) => former.clone(),
            _ => self.in_force.clone(),
        };
        // Edited back by hand: there is nothing to try, and nothing to go back to.
        let back = self.is_on() && former.manifests == read.loaded.manifests;
        self.take(read);
        if back || read.config.probes.is_empty() {
            self.end(Kept::default());
        } else {
            let way_back = read.config.rollback && former.manifests != read.loaded.manifests;
            self.keep(Kept { former: way_back.then_some(former), failure: None });
            self.begin(now);
        }
        Offer::Accepted
    }

    /// What was read is what is in force: somebody has gone back by hand.
    pub(super) fn unchanged(&mut self) {
        if self.stage == Stage::Quiet && self.failure().is_some_and(|failure| failure.rolled_back) {
            self.end(Kept::default());
        }
    }

    /// The trial to probe for, once `applied` or overdue.
    pub(super) fn due(&mut self, applied: bool, now: Instant) -> Option<u64> {
        let Stage::Applying(since) = self.stage else { return None };
        if !applied && now < since + SETTLED_AFTER {
            return None;
        }
        self.stage = Stage::Probing;
        Some(self.number)
    }

    /// When [`Self::due`] is due without anything being applied.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Stage::Applying(since) = self.stage { Some(since + SETTLED_AFTER) } else { None }
    }

    /// Takes the probes' result; returns what to put in force again.
    pub(super) fn probed(&mut self, number: u64, verdict: &Verdict) -> Option<Loaded> {
        if number != self.number || self.stage != Stage::Probing {
            return None;
        }
        let Verdict::Failed(message) = verdict else {
            self.end(Kept::default());
            return None;
        };
        let former = self.kept.former.clone();
        let failure =
            Failure { hash: self.hash.clone(), message: message.clone(), rolled_back: former.is_some() };
        self.end(Kept { former: former.clone(), failure: Some(failure) });
        if let Some(former) = &former {
            self.in_force.clone_from(former);
        }
        former
    }

    /// The last change, if a probe failed after it.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.kept.failure.as_ref()
    }

    /// Whether a change is on trial.
    pub(super) fn is_on(&self) -> bool {
        self.stage != Stage::Quiet
    }

    fn begin(&mut self, now: Instant) {
        self.number += 1;
        self.stage = Stage::Applying(now);
    }

    fn end(&mut self, kept: Kept) {
        self.stage = Stage::Quiet;
        self.keep(kept);
    }

    fn keep(&mut self, kept: Kept) {
        if kept == self.kept {
            return;
        }
        self.kept = kept;
        let written = if self.kept == Kept::default() {
            std::fs::remove_file(&self.file)
        } else {
            persist::write(&self.file, &self.kept)
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a trial of the configuration does not outlive the agent");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intent::{self, types::Intent};

    const PROBE: &str = "probes: [{type: TCP, address: 192.0.2.1, port: 443}]";

    /// Manifests that differ by `max`, with `apply`.
    fn manifests(max: u32, apply: &str) -> (Loaded, Intent) {
        let text = format!(
            "{{apiVersion: backtrail.dev/v1alpha1, kind: DataplaneConfig, metadata: {{name: default}}, \
             spec: {{guardrails: {{maxRoutesPerNode: {max}}}, apply: {{{apply}}}}}}}"
        );
        let loaded = intent::load_text(Path::new("test.yaml"), &text);
        assert_eq!(loaded.errors, []);
        let intent = intent::build(&loaded, &std::collections::BTreeMap::new(), None);
        (loaded, intent)
    }

    fn failed() -> Verdict {
        Verdict::Failed("TCP 192.0.2.1:443: timed out".to_owned())
    }

    fn start(trial: &mut Trial, (loaded, intent): &(Loaded, Intent), now: Instant) -> Option<Loaded> {
        trial.start(Candidate { loaded, hash: &intent::config_hash(intent), config: &intent.config }, now)
    }

    fn offer(trial: &mut Trial, (loaded, intent): &(Loaded, Intent), now: Instant) -> Offer {
        trial.offer(Candidate { loaded, hash: &intent::config_hash(intent), config: &intent.config }, now)
    }

    struct Bench {
        trial: Trial,
        now: Instant,
        folder: tempfile::TempDir,
    }

    impl Bench {
        /// An agent that runs with the configuration 1, without a trial.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (now, (loaded, intent)) = (Instant::now(), manifests(1, PROBE));
            let mut trial = Trial::open(folder.path());
            assert_eq!(start(&mut trial, &(loaded, intent), now), None);
            assert!(!trial.is_on(), "what the agent starts with has nothing to go back to");
            Self { trial, now, folder }
        }

        fn offer(&mut self, max: u32, apply: &str) -> Offer {
            offer(&mut self.trial, &manifests(max, apply), self.now)
        }

        fn probed(&mut self, verdict: &Verdict) -> Option<Loaded> {
            let number = self.trial.due(true, self.now).expect("on trial");
            self.trial.probed(number, verdict)
        }
    }

    #[test]
    fn what_passes_stays() {
        let mut bench = Bench::new();
        assert_eq!(bench.offer(2, PROBE), Offer::Accepted);
        assert!(bench.trial.is_on() && bench.folder.path().join(TRIAL).exists());
        assert_eq!(bench.trial.due(false, bench.now), None, "not before it is applied");
        assert_eq!(bench.probed(&Verdict::Passed), None);
        assert!(!bench.trial.is_on() && bench.trial.failure().is_none());
        assert!(!bench.folder.path().join(TRIAL).exists());
    }

    #[test]
    fn what_fails_is_taken_back_and_not_tried_again_until_it_is_edited() {
        let mut bench = Bench::new();
        bench.offer(2, PROBE);
        assert_eq!(bench.probed(&failed()), Some(manifests(1, PROBE).0));
        let failure = bench.trial.failure().unwrap();
        assert!(failure.rolled_back && failure.message.contains("192.0.2.1:443"));
        assert_eq!(bench.offer(2, PROBE), Offer::Refused);
        // Nor after a restart, with the same manifests in the file.
        let mut again = Trial::open(bench.folder.path());
        let failed = manifests(2, PROBE);
        assert_eq!(start(&mut again, &failed, bench.now), Some(manifests(1, PROBE).0));
        assert_eq!(offer(&mut again, &failed, bench.now), Offer::Refused);
        assert_eq!(offer(&mut again, &manifests(3, PROBE), bench.now), Offer::Accepted);
        assert!(again.is_on() && again.failure().is_none());
    }

    #[test]
    fn an_edit_during_a_trial_does_not_make_the_untested_the_way_back() {
        let mut bench = Bench::new();
        bench.offer(2, PROBE);
        let stale = bench.trial.due(true, bench.now).unwrap();
        bench.offer(3, PROBE);
        assert_eq!(bench.trial.probed(stale, &failed()), None, "of the trial before");
        assert_eq!(bench.probed(&failed()), Some(manifests(1, PROBE).0));
    }

    #[test]
    fn what_is_edited_back_by_hand_needs_no_trial_and_the_failed_change_is_tried_when_it_comes_again() {
        let mut bench = Bench::new();
        bench.offer(2, PROBE);
        assert_eq!(bench.offer(1, PROBE), Offer::Accepted, "amid the trial");
        assert!(!bench.trial.is_on() && !bench.folder.path().join(TRIAL).exists());
        bench.offer(2, PROBE);
        assert!(bench.probed(&failed()).is_some());
        // What is in force is in the file again: the change that comes after is an edit.
        bench.trial.unchanged();
        assert_eq!(bench.offer(2, PROBE), Offer::Accepted);
        assert!(bench.probed(&failed()).is_some(), "and it is taken back again");
    }

    #[test]
    fn an_agent_that_died_during_a_trial_goes_on_with_it() {
        let mut bench = Bench::new();
        bench.offer(2, PROBE);
        bench.trial = Trial::open(bench.folder.path());
        assert_eq!(start(&mut bench.trial, &manifests(2, PROBE), bench.now), None);
        assert_eq!(bench.probed(&failed()), Some(manifests(1, PROBE).0));
    }

    #[test]
    fn without_rollback_a_failure_is_only_told() {
        let mut bench = Bench::new();
        let apply = format!("{PROBE}, rollbackOnProbeFailure: false");
        bench.offer(2, &apply);
        assert_eq!(bench.probed(&failed()), None);
        assert!(!bench.trial.failure().unwrap().rolled_back);
        assert_eq!(bench.offer(2, &apply), Offer::Accepted);
    }

    #[test]
    fn what_cannot_be_probed_stays_and_what_never_rests_is_probed_nevertheless() {
        let mut bench = Bench::new();
        bench.offer(2, PROBE);
        let deadline = bench.trial.deadline().unwrap();
        assert_eq!(bench.trial.due(false, deadline - Duration::from_millis(1)), None);
        let number = bench.trial.due(false, deadline).unwrap();
        let impossible = Verdict::Impossible("no socket".to_owned());
        assert_eq!(bench.trial.probed(number, &impossible), None);
        assert!(bench.trial.failure().is_none() && !bench.trial.is_on());
        assert_eq!(bench.offer(3, ""), Offer::Accepted, "without probes there is no trial");
        assert!(!bench.trial.is_on());
    }
}
