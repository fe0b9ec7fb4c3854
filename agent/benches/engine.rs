//! What the agent's own work costs for each route, stage by stage, with a kernel that takes everything at once.
//!
//! `cargo bench -p backtrail --bench engine [ROUTES]`: nanoseconds of CPU for each route, on one core. What `cargo xtask bench
//! routes` measures from end to end, with the real kernel, this takes apart.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use backtrail::intent::types::{Allowed, DefaultRoute, FeedLoss, Import, Intent, ObjectRef, OnLimit, Target};
use backtrail::model::ops::{Batch, BatchDone, RouteOp};
use backtrail::model::{KernelRoute, NexthopObject};
use backtrail::plan::{Links, NodeFacts, Plan, PlanInput, ZebraTables};
use backtrail::reconcile::Engine;
use backtrail_lab::feeder::{announce, frames, nexthop, withdraw};
use ipnet::Ipv4Net;
use zebra_fpm::{Decoder, Update};

const TABLE: u32 = 10_050;
/// As the server reads.
const READ: usize = 256 << 10;
const HOPS: [(u32, Ipv4Addr); 2] = [(17, Ipv4Addr::new(192, 0, 2, 1)), (18, Ipv4Addr::new(192, 0, 2, 2))];

fn main() -> Result<()> {
    let size = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000u32);
    let routes = routes(size);
    let announced = |id: u32| frames(routes.iter().map(|net| announce(*net, id)));
    let mut bench = Bench::new(u64::from(size));
    bench.feed("nexthops", &frames(HOPS.map(|(id, via)| nexthop(id, IpAddr::V4(via), 2)))?, 1)?;
    bench.feed("insert", &announced(17)?, size)?;
    bench.compare(size)?;
    bench.feed("announce again", &announced(17)?, size)?;
    bench.feed("change", &announced(18)?, size)?;
    bench.feed("withdraw", &frames(routes.iter().map(|net| withdraw(*net)))?, size)?;
    Ok(())
}

/// Ascending /24s with gaps, as a full table has.
fn routes(count: u32) -> Vec<Ipv4Net> {
    let mut address = 16 << 16;
    let next = |number: u32| {
        address += 1 + (number.wrapping_mul(2_654_435_761) >> 29);
        Ipv4Net::new(Ipv4Addr::from(address << 8), 24).ok()
    };
    (0..count).filter_map(next).collect()
}

fn import(max_routes: u64) -> Import {
    Import {
        owners: vec![ObjectRef { kind: "RouteImport".to_owned(), name: "everything".to_owned() }],
        from_table: 5000,
        from_interfaces: BTreeSet::new(),
        protocols: BTreeSet::from([186]),
        allowed: Allowed::All,
        default_route: DefaultRoute::Reject,
        max_routes,
        on_limit: OnLimit::RejectNew,
        into: Target { table: TABLE, vrf: None },
        program: true,
        metric: 20,
        preferred_source: None,
        max_paths: 16,
        resilient: None,
        on_feed_loss: FeedLoss::Retain(Some(Duration::from_secs(120))),
    }
}

/// The engine, and what the kernel would hold.
struct Bench {
    engine: Engine,
    under_way: VecDeque<Batch>,
    routes: Vec<KernelRoute>,
    nexthops: Vec<NexthopObject>,
}

impl Bench {
    fn new(max_routes: u64) -> Self {
        let mut intent = Intent { imports: vec![import(max_routes)], ..Intent::default() };
        intent.config.max_routes_per_node = max_routes;
        let now = Instant::now();
        let mut engine = Engine::new(&intent.config, now, None);
        let (links, facts, zebra) = (Links::new(), NodeFacts::default(), ZebraTables::default());
        let input = PlanInput { intent: &intent, links: &links, zebra: &zebra, facts: &facts };
        engine.set_plan(Plan::compile(input), now);
        engine.set_usable_links(BTreeSet::from([2]), now);
        engine.fpm_connected(now);
        Self { engine, under_way: VecDeque::new(), routes: Vec::new(), nexthops: Vec::new() }
    }

    /// Feeds a stream through all stages; prints what each took.
    fn feed(&mut self, what: &str, bytes: &[u8], routes: u32) -> Result<()> {
        let mut took = [Duration::ZERO; 4];
        let mut decoder = Decoder::new();
        let mut operations = 0;
        for read in bytes.chunks(READ) {
            let mut updates: Vec<Update> = Vec::new();
            timed(&mut took[0], || {
                decoder.frames().extend(read);
                while decoder.next_frame(&mut updates)?.is_some() {}
                anyhow::Ok(())
            })?;
            timed(&mut took[1], || self.engine.fpm_updates(&updates, Instant::now()));
            drop(updates);
            self.pump(&mut took, &mut operations);
        }
        while !self.engine.is_idle() {
            ensure!(!self.under_way.is_empty(), "{what}: stuck");
            self.acknowledge(&mut took);
            self.pump(&mut took, &mut operations);
        }
        let [decode, learn, evaluate, acknowledge] =
            took.map(|time| time.as_secs_f64() * 1e9 / f64::from(routes));
        let sum = decode + learn + evaluate + acknowledge;
        println!(
            "{what:>15}: {sum:4.0} ns a route: decode {decode:.0}, learn {learn:.0}, evaluate {evaluate:.0}, \
             acknowledge {acknowledge:.0}; {operations} operations"
        );
        Ok(())
    }

    fn pump(&mut self, took: &mut [Duration; 4], operations: &mut usize) {
        while let Some(batch) = timed(&mut took[2], || self.engine.next_batch(Instant::now())) {
            *operations += batch.ops.len();
            for op in &batch.ops {
                match op {
                    RouteOp::AddRoute(route) => self.routes.push(route.clone()),
                    RouteOp::AddNexthop(object) => self.nexthops.push(object.clone()),
                    _ => {}
                }
            }
            self.under_way.push_back(batch);
        }
        self.acknowledge(took);
    }

    fn acknowledge(&mut self, took: &mut [Duration; 4]) {
        let Some(Batch { id, ops }) = self.under_way.pop_front() else { return };
        let done = BatchDone { id, ops, errors: Vec::new(), elapsed: Duration::ZERO };
        timed(&mut took[3], || {
            self.engine.batch_done(&done, Instant::now());
            drop(done);
        });
    }

    /// A full comparison that finds all as it should be, then the counts for the status.
    fn compare(&mut self, routes: u32) -> Result<()> {
        let (mut took, now) = (Duration::ZERO, Instant::now());
        let audit = timed(&mut took, || {
            let mut audit = self.engine.begin_audit(&self.nexthops, now);
            self.engine.audit_routes(&mut audit, &self.routes, now);
            self.engine.finish_audit(&mut audit, now);
            audit
        });
        ensure!(audit.differences == 0, "{} differences", audit.differences);
        println!("{:>15}: {:4.0} ns a route", "compare", took.as_secs_f64() * 1e9 / f64::from(routes));
        let mut took = Duration::ZERO;
        let counts = timed(&mut took, || self.engine.counts());
        ensure!(counts.programmed == u64::from(routes), "{} are programmed", counts.programmed);
        println!("{:>15}: {:4.0} ns a route", "count", took.as_secs_f64() * 1e9 / f64::from(routes));
        Ok(())
    }
}

/// Adds the CPU time of this thread: what else the machine does takes time too, but is not the agent's.
fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let began = cpu_time();
    let result = work();
    *sum += cpu_time().saturating_sub(began);
    result
}

fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default())
}
