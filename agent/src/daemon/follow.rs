//! Those who follow what happens to flows: the programs report while somebody asks, and to nobody otherwise.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use super::observed::Observed;
use super::steer::{Steerer, protocol};
use crate::control::{EventCursor, EventKind, EventPage, EventRow, MAX_PAGE, Response};
use crate::steering::{FlowEvent, FlowEventKind};

/// Events that each CPU may report in about a second.
const EVENTS_PER_CPU: u32 = 64;
/// Events that are kept for followers that are slow to ask.
const RECENT: usize = 4096;
/// Without a question for so long, nobody follows any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Events that were reported, and who waits for more.
#[derive(Default)]
pub(super) struct Followers {
    /// There as long as the programs report.
    ring: Option<AsyncFd<OwnedFd>>,
    recent: VecDeque<EventRow>,
    /// What a follower that knows everything so far asks for next.
    now: EventCursor,
    waiting: Vec<(EventCursor, oneshot::Sender<Response>)>,
    asked: Option<Instant>,
}

impl Followers {
    /// Waits for events; for ever, while nobody follows.
    pub(super) async fn readable(&self) {
        if let Some(ring) = &self.ring
            && let Ok(mut guard) = ring.readable().await
        {
            // Before they are taken: what comes meanwhile makes it readable again.
            return guard.clear_ready();
        }
        std::future::pending::<()>().await;
    }

    /// Answers at once when there is news since `after`, else with the next news or at the next [`Self::refresh`].
    pub(super) fn ask(
        &mut self,
        after: Option<EventCursor>,
        reply: oneshot::Sender<Response>,
        steerer: &mut Steerer,
    ) {
        self.asked = Some(Instant::now());
        if self.ring.is_none() {
            match steerer.listen(EVENTS_PER_CPU) {
                Ok(ring) => self.ring = Some(ring),
                Err(error) => return drop(reply.send(Response::Error(error))),
            }
            // What an earlier follower left in the ring is not news.
            drop(steerer.events());
            self.now.suppressed = steerer.suppressed_events();
        }
        let after = after.unwrap_or(self.now);
        if after == self.now {
            self.waiting.push((after, reply));
        } else {
            // The client may have gone.
            drop(reply.send(Response::Events(self.page(after))));
        }
    }

    /// Takes what was reported, and tells it to those who wait.
    pub(super) fn take(&mut self, steerer: &mut Steerer, observed: &Observed) {
        for event in steerer.events() {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(row(&event, observed));
            self.now.event += 1;
        }
        self.now.suppressed = steerer.suppressed_events();
        self.answer();
    }

    /// To be called every few seconds: nobody waits for longer, and without a follower the programs stop reporting.
    pub(super) fn refresh(&mut self, steerer: &mut Steerer, observed: &Observed) {
        if self.ring.is_none() {
            return;
        }
        self.take(steerer, observed);
        if self.asked.is_none_or(|asked| asked.elapsed() > PATIENCE) {
            steerer.stop_listening();
            *self = Self { now: self.now, ..Self::default() };
        }
    }

    fn answer(&mut self) {
        for (after, reply) in std::mem::take(&mut self.waiting) {
            drop(reply.send(Response::Events(self.page(after))));
        }
    }

    /// The events since a cursor, the oldest first.
    fn page(&self, after: EventCursor) -> EventPage {
        let oldest = self.now.event.saturating_sub(self.recent.len() as u64);
        let first = after.event.clamp(oldest, self.now.event);
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        let events: Vec<EventRow> = self.recent.iter().skip(skip).take(MAX_PAGE as usize).cloned().collect();
        let overtaken = first.saturating_sub(after.event);
        EventPage {
            lost: overtaken + self.now.suppressed.saturating_sub(after.suppressed),
            next: EventCursor { event: first + events.len() as u64, suppressed: self.now.suppressed },
            events,
        }
    }
}

fn row(event: &FlowEvent, observed: &Observed) -> EventRow {
    let name = |ifindex: u32| observed.name(ifindex).map_or_else(|| format!("if{ifindex}"), str::to_owned);
    let (kind, reason) = match event.kind {
        FlowEventKind::Learned => (EventKind::Learned, None),
        FlowEventKind::Steered => (EventKind::Steered, None),
        FlowEventKind::PathDown => (EventKind::PathDown, None),
        FlowEventKind::Unparsable(reason) => (EventKind::Unparsable, Some(reason.to_owned())),
    };
    EventRow {
        time: jiff::Timestamp::now().to_string(),
        event: kind,
        proto: event.flow.map(|flow| protocol(flow.protocol)),
        client: event.flow.map(|flow| flow.client),
        service: event.flow.map(|flow| flow.service),
        interface: name(event.ifindex),
        replies_by: event.path_ifindex.map(name),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ifindex: u32) -> FlowEvent {
        FlowEvent { kind: FlowEventKind::Learned, flow: None, ifindex, path_ifindex: None }
    }

    /// Followers after so many events, of which `suppressed` were not told.
    fn followers(events: u32, suppressed: u64) -> Followers {
        let observed = Observed::default();
        let mut followers = Followers::default();
        for ifindex in 1..=events {
            followers.recent.push_back(row(&event(ifindex), &observed));
        }
        let kept = RECENT.min(followers.recent.len());
        followers.recent.drain(..followers.recent.len() - kept);
        followers.now = EventCursor { event: u64::from(events), suppressed };
        followers
    }

    #[test]
    fn pages_follow_each_other_without_gap() {
        let followers = followers(3000, 0);
        let first = followers.page(EventCursor::default());
        assert_eq!((first.events.len(), first.lost), (MAX_PAGE as usize, 0));
        let second = followers.page(first.next);
        assert_eq!((second.events.len(), second.lost), (3000 - MAX_PAGE as usize, 0));
        assert_eq!(second.events.first().map(|row| row.interface.as_str()), Some("if2049"));
        assert_eq!(second.next, followers.now);
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_was_lost() {
        let followers = followers(5000, 7);
        let page = followers.page(EventCursor { event: 100, suppressed: 2 });
        assert_eq!(page.lost, (5000 - RECENT as u64 - 100) + 5);
        assert_eq!(page.events.first().map(|row| row.interface.as_str()), Some("if905"));
    }

    #[test]
    fn a_cursor_of_an_earlier_agent_begins_anew() {
        let followers = followers(3, 0);
        let page = followers.page(EventCursor { event: 900, suppressed: 900 });
        assert_eq!((page.events.len(), page.lost, page.next), (0, 0, followers.now));
    }
}
