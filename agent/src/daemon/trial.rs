//! A change of the configuration on trial: in force, then probed, then kept or taken back.
//!
//! Pure but for the file that carries it over a restart. The daemon tells what was read, how far it is applied and what
//! the probes found; it is told what to put in force. What is taken back is what was written: the way back leads to the
//! last configuration that was, never to one that forbids writing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::persist;
use super::probe::Verdict;
use crate::api::{ApplyMode, PAUSED};
use crate::intent::types::Config;
use crate::intent::{Loaded, Object};

/// File in the state directory, while a change is on trial or was taken back.
pub(super) const TRIAL: &str = "trial.json";
/// A change that is written is probed after this long, though parts fail or others' routes come and go.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// A change is judged after this long, written or not.
pub(super) const APPLIED_WITHIN: Duration = Duration::from_secs(60);

/// How far the configuration in force has come into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// What it needs to know is not known yet: nothing of it is planned.
    Unplanned,
    /// Some of it waits to be written, or to be acknowledged.
    Writing,
    /// Written, but for what fails and is tried again, or for what other routes may change of it.
    Restless,
    /// The kernel has all of it.
    Applied,
}

impl Progress {
    /// How long a change that stays there is waited for, since it may be written.
    fn patience(self) -> Duration {
        match self {
            Self::Unplanned | Self::Writing => APPLIED_WITHIN,
            Self::Restless => SETTLED_AFTER,
            Self::Applied => Duration::ZERO,
        }
    }
}

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
    /// The last configuration that was written and stood its trial, while what is in force is not such a one.
    former: Option<Loaded>,
    failure: Option<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Quiet,
    /// Being written; it may be since then.
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
    /// Its settings.
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

    /// What the agent starts with: the former manifests, where these were taken back. `earlier` is what an earlier agent
    /// has written.
    pub(super) fn start(
        &mut self,
        read: Candidate<'_>,
        earlier: Option<Loaded>,
        now: Instant,
    ) -> Option<Loaded> {
        let refused = self.refuses(read.hash);
        if let Some(former) = self.kept.former.clone().filter(|_| refused) {
            self.in_force.clone_from(&former);
            return Some(former);
        }
        // Where an agent died in the middle of a trial, or while nothing was written, it left the way back.
        let frozen =
            || read.config.is_frozen().then(|| earlier.unwrap_or_else(|| settings_alone(read.loaded)));
        let way_back = self.kept.former.clone().or_else(frozen);
        self.put(read, way_back, now);
        None
    }

    fn refuses(&self, hash: &str) -> bool {
        self.kept.failure.as_ref().is_some_and(|failure| failure.rolled_back && failure.hash == hash)
    }

    /// Judges a configuration that was read, before it is put in force.
    pub(super) fn offer(&mut self, read: Candidate<'_>, now: Instant) -> Offer {
        if self.refuses(read.hash) {
            return Offer::Refused;
        }
        // One that has not stood its trial is nothing to go back to, nor one that wrote nothing.
        let former = self.kept.former.clone().unwrap_or_else(|| self.in_force.clone());
        self.put(read, Some(former), now);
        Offer::Accepted
    }

    /// Puts it in force: on trial, where that makes sense.
    fn put(&mut self, read: Candidate<'_>, way_back: Option<Loaded>, now: Instant) {
        self.in_force.clone_from(read.loaded);
        read.hash.clone_into(&mut self.hash);
        // Edited back by hand: there is nothing to try, and nothing to go back to.
        let back = self.kept.former.as_ref().is_some_and(|former| former.manifests == read.loaded.manifests);
        let Config { probes, rollback, .. } = read.config;
        if read.config.is_frozen() {
            self.end(Kept { former: way_back, failure: None });
        } else if back || probes.is_empty() || way_back.is_none() {
            self.end(Kept::default());
        } else {
            let changed = |former: &Loaded| former.manifests != read.loaded.manifests;
            self.keep(Kept { former: way_back.filter(|former| *rollback && changed(former)), failure: None });
            self.number += 1;
            self.stage = Stage::Applying(now);
        }
    }

    /// What was read is what is in force: somebody has gone back by hand.
    pub(super) fn unchanged(&mut self) {
        if self.stage == Stage::Quiet && self.failure().is_some_and(|failure| failure.rolled_back) {
            self.end(Kept::default());
        }
    }

    /// Writing may go on: time in which nothing could be written does not count.
    pub(super) fn thawed(&mut self, now: Instant) {
        if self.is_applying() {
            self.stage = Stage::Applying(now);
        }
    }

    /// Whether a change waits to be probed.
    pub(super) fn is_applying(&self) -> bool {
        matches!(self.stage, Stage::Applying(_))
    }

    /// When [`Self::due`] is due with this progress.
    pub(super) fn deadline(&self, progress: Progress) -> Option<Instant> {
        if let Stage::Applying(since) = self.stage { Some(since + progress.patience()) } else { None }
    }

    /// The trial to probe for, once it is applied or overdue.
    pub(super) fn due(&mut self, progress: Progress, now: Instant) -> Option<u64> {
        let due = self.deadline(progress).is_some_and(|deadline| now >= deadline);
        due.then(|| self.stage = Stage::Probing).map(|()| self.number)
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

/// The node's settings without any object that asks for something: the way back where nothing was written before.
fn settings_alone(loaded: &Loaded) -> Loaded {
    let mut manifests = loaded.manifests.clone();
    manifests.retain_mut(|manifest| {
        let Object::DataplaneConfig(config) = &mut manifest.object else { return false };
        config.spec.apply.mode = ApplyMode::Enforce;
        if let Some(annotations) = &mut config.metadata.annotations {
            annotations.remove(PAUSED);
        }
        true
    });
    Loaded { manifests, ..Loaded::default() }
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
        let read = Candidate { loaded, hash: &intent::config_hash(intent), config: &intent.config };
        trial.start(read, None, now)
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
            let number = self.trial.due(Progress::Applied, self.now).expect("on trial");
            self.trial.probed(number, verdict)
        }
    }

    #[test]
    fn what_passes_stays() {
        let mut bench = Bench::new();
        assert_eq!(bench.offer(2, PROBE), Offer::Accepted);
        assert!(bench.trial.is_on() && bench.folder.path().join(TRIAL).exists());
        for progress in [Progress::Unplanned, Progress::Writing, Progress::Restless] {
            assert_eq!(bench.trial.due(progress, bench.now), None, "not before it is applied");
        }
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
        let stale = bench.trial.due(Progress::Applied, bench.now).unwrap();
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
        let [writing, restless] =
            [Progress::Writing, Progress::Restless].map(|progress| bench.trial.deadline(progress).unwrap());
        assert!(bench.now < restless && restless < writing);
        assert_eq!(bench.trial.due(Progress::Restless, restless - Duration::from_millis(1)), None);
        assert_eq!(bench.trial.due(Progress::Writing, restless), None, "it is not there yet");
        let number = bench.trial.due(Progress::Restless, restless).unwrap();
        let impossible = Verdict::Impossible("no socket".to_owned());
        assert_eq!(bench.trial.probed(number, &impossible), None);
        assert!(bench.trial.failure().is_none() && !bench.trial.is_on());
        assert_eq!(bench.offer(3, ""), Offer::Accepted, "without probes there is no trial");
        assert!(!bench.trial.is_on());
    }

    #[test]
    fn time_in_which_nothing_may_be_written_does_not_count() {
        let mut bench = Bench::new();
        bench.offer(2, PROBE);
        let resumed = bench.now + 2 * APPLIED_WITHIN;
        bench.trial.thawed(resumed);
        assert_eq!(bench.trial.due(Progress::Writing, resumed), None);
        assert_eq!(bench.trial.deadline(Progress::Writing), Some(resumed + APPLIED_WITHIN));
        bench.trial.due(Progress::Applied, resumed).unwrap();
        bench.trial.thawed(resumed);
        assert!(!bench.trial.is_applying(), "probes are made once");
    }

    #[test]
    fn the_way_back_is_what_was_written_last_over_restarts_and_edits() {
        let dry = format!("mode: DryRun, {PROBE}");
        let mut bench = Bench::new();
        bench.offer(2, &dry);
        assert!(!bench.trial.is_on(), "nothing of it is written");
        bench.trial = Trial::open(bench.folder.path());
        assert_eq!(start(&mut bench.trial, &manifests(2, &dry), bench.now), None);
        bench.offer(3, &dry);
        bench.offer(3, PROBE);
        assert_eq!(bench.probed(&failed()), Some(manifests(1, PROBE).0));
        // A dry run amid a trial, and back by hand.
        bench.offer(4, PROBE);
        bench.offer(4, &dry);
        assert!(!bench.trial.is_on() && bench.trial.failure().is_none());
        assert_eq!(bench.offer(1, PROBE), Offer::Accepted);
        assert!(!bench.trial.is_on() && !bench.folder.path().join(TRIAL).exists());
    }

    #[test]
    fn where_nothing_was_written_the_way_back_is_without_policy() {
        let dry = format!("mode: DryRun, {PROBE}");
        for earlier in [None, Some(manifests(7, "").0)] {
            let folder = tempfile::tempdir().unwrap();
            let (now, (loaded, intent)) = (Instant::now(), manifests(1, &dry));
            let mut trial = Trial::open(folder.path());
            let read = Candidate { loaded: &loaded, hash: "1", config: &intent.config };
            assert_eq!(trial.start(read, earlier.clone(), now), None);
            assert_eq!(offer(&mut trial, &manifests(2, PROBE), now), Offer::Accepted);
            let number = trial.due(Progress::Applied, now).unwrap();
            let back = trial.probed(number, &failed()).unwrap();
            if earlier.is_some() {
                assert_eq!(Some(back), earlier, "what an earlier agent wrote");
                continue;
            }
            // Settings stay, the mode does not.
            let config = intent::build(&back, &std::collections::BTreeMap::new(), None).config;
            assert!(!config.is_frozen() && config.max_routes_per_node == 1, "{config:?}");
        }
    }
}
