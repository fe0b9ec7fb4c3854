//! Listens for zebra and keeps its table, also over restarts of either: a small consumer.
//!
//!     cargo run -p zebra-fpm --example table -- 127.0.0.1:2620
//!
//! In FRR: `zebra -M dplane_fpm_nl`, and `fpm address 127.0.0.1 port 2620`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use zebra_fpm::server::{Epoch, Event, Server, ServerOptions};
use zebra_fpm::session::{Feed, Retention};
use zebra_fpm::{NexthopId, NexthopObject, Protocol, Route, RouteKey, Target, Update};

/// Routes of a zebra that is gone, or was restarted, are kept for so long.
const RETENTION: Retention = Retention::For(Duration::from_secs(120));

struct Table {
    /// With the session that announced it last.
    routes: HashMap<RouteKey, (Epoch, Route)>,
    nexthops: HashMap<NexthopId, NexthopObject>,
    feed: Feed,
    epoch: Epoch,
}

impl Table {
    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected { epoch, peer } => {
                eprintln!("{peer} connected");
                self.epoch = epoch;
                // A restarted zebra numbers its nexthops anew.
                self.nexthops.clear();
                self.feed.connected(now);
            }
            Event::Updates { updates, pid, .. } => {
                pid.into_iter().for_each(|pid| self.feed.seen_pid(pid));
                updates.into_iter().for_each(|update| self.apply(update));
            }
            Event::ReplayComplete { .. } => self.feed.replay_complete(now),
            Event::Disconnected { reason, .. } => {
                eprintln!("{reason}");
                self.feed.disconnected(now);
            }
            Event::Refused { peer, reason } => eprintln!("{peer} refused: {reason}"),
            Event::Superseded { old_peer, new_peer, .. } => eprintln!("{new_peer} took over from {old_peer}"),
        }
        self.sweep(now);
    }

    fn apply(&mut self, update: Update) {
        match update {
            // Connected and kernel routes: the kernel itself is the better source.
            Update::Route(route) if route.protocol == Protocol::KERNEL => {}
            Update::Route(route) => {
                println!("{}", self.describe(&route));
                self.routes.insert(route.key, (self.epoch, route));
            }
            Update::RouteDel(route) => {
                println!("del {}", route.key);
                self.routes.remove(&route.key);
            }
            Update::Nexthop(object) => drop(self.nexthops.insert(object.id, object)),
            Update::NexthopDel { id, .. } => drop(self.nexthops.remove(&id)),
            other => println!("{other}"),
        }
    }

    /// A nexthop may arrive after the routes that use it: it is looked up when it is needed, not when they arrive.
    fn describe(&self, route: &Route) -> String {
        let nexthop = match route.target {
            Target::Nexthop(id) => self.nexthops.get(&id),
            _ => None,
        };
        let nexthop = nexthop.map(|object| format!(" ({})", Update::Nexthop(object.clone())));
        format!("{}{}", Update::Route(route.clone()), nexthop.unwrap_or_default())
    }

    /// Drops what this session has not announced, when it is known to be gone.
    fn sweep(&mut self, now: Instant) {
        if self.feed.hold_until(RETENTION).is_some_and(|until| now >= until) {
            let before = self.routes.len();
            self.routes.retain(|_, (epoch, _)| *epoch == self.epoch);
            eprintln!("{} routes are gone, {} stay", before - self.routes.len(), self.routes.len());
            self.feed.synchronized();
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2620".to_owned());
    let (server, mut events) = Server::bind(address.parse()?, ServerOptions::default())?;
    eprintln!("waiting for zebra on {}", server.local_addr());
    let feed = Feed::new(Instant::now(), None);
    let mut table = Table { routes: HashMap::new(), nexthops: HashMap::new(), feed, epoch: Epoch(0) };
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            Some(event) = events.recv() => table.take(event, Instant::now()),
            _ = clock.tick() => table.sweep(Instant::now()),
        }
    }
}
