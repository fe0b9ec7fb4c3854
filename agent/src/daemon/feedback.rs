//! Telling zebra what became of its routes (`fpm.offloadAck`): whether it listens, and the answers' way out.

use zebra_fpm::netlink::{FeedbackUnsupported, Offload, feedback_support};
use zebra_fpm::server::{Epoch, FeedbackError};

use super::{Agent, Report};
use crate::host::zebra;
use crate::metrics::RouteOutcome;

impl Agent {
    /// Finds out, for a new session, whether its zebra acts on feedback. Its version is not in FPM: it is asked where
    /// the process can be seen, and else taken for one that does.
    pub(super) fn probe_feedback(&mut self) {
        self.fpm.feedback_support = None;
        self.settle_feedback();
        let reports = self.reports.clone();
        let epoch = Epoch(self.fpm.epoch);
        tokio::task::spawn_blocking(move || {
            let support = zebra::version().map_or(Ok(()), |version| feedback_support(version.0, version.1));
            let _ = reports.blocking_send(Report::FeedbackSupport(epoch, support));
        });
    }

    pub(super) fn feedback_probed(&mut self, epoch: Epoch, support: Result<(), FeedbackUnsupported>) {
        if epoch.0 == self.fpm.epoch {
            self.fpm.feedback_support = Some(support);
            self.settle_feedback();
        }
    }

    /// Answers begin, or end, with the manifests and with the session.
    pub(super) fn settle_feedback(&mut self) {
        let wanted = self.intent.config.offload_ack;
        if let Some(why) = self.feedback_refused() {
            tracing::warn!(%why, "fpm.offloadAck: zebra is not told what became of its routes");
        }
        self.engine.want_feedback(wanted && self.fpm.feedback_support == Some(Ok(())));
    }

    /// Why zebra gets no answers although the manifests ask for them.
    pub(super) fn feedback_refused(&self) -> Option<FeedbackUnsupported> {
        let unsupported = self.fpm.feedback_support?.err();
        unsupported.filter(|_| self.intent.config.offload_ack && self.fpm.connected)
    }

    /// Hands the engine's answers to the session that announced the routes; never waits.
    pub(super) fn send_feedback(&mut self) {
        let Some(sender) = &self.fpm_feedback else { return };
        let epoch = Epoch(self.fpm.epoch);
        let (mut done, mut failed) = (0, 0);
        self.engine.drain_feedback(|route, outcome| {
            match sender.send(epoch, route, outcome) {
                Ok(()) => {}
                // The next session's replay asks again.
                Err(FeedbackError::NoSession) => return true,
                Err(error @ (FeedbackError::Full(_) | FeedbackError::Frame(_))) => {
                    tracing::debug!(%error, "feedback waits");
                    return false;
                }
            }
            match outcome {
                Offload::Done => done += 1,
                Offload::Failed => failed += 1,
            }
            true
        });
        for (outcome, count) in [("offload", done), ("offload_failed", failed)] {
            if count > 0 {
                self.metrics.fpm.feedback.get_or_create(&RouteOutcome { outcome }).inc_by(count);
            }
        }
    }
}
