//! What the kernel should hold: a pure function of (routes learned, intent, links seen).
//!
//! [`Plan::compile`] turns the intent and the links into everything that does not depend on single routes: which
//! import takes which FPM table, static routes of VRF tables, policy rules. It runs when the intent or the links
//! change. A learned route then costs one [`ImportPlan::accepts`] for each import of its table: O(1).

mod devices;
mod facts;
mod rules;
mod statics;
pub mod steering;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

pub use self::facts::NodeFacts;
pub(crate) use self::rules::port_selectors;
use crate::intent::types::{
    Allowed, AutoProtect, DefaultRoute, Import, Intent, ObjectRef, PrefixMatch, Vrf, VrfMode,
};
use crate::model::devices::Devices;
use crate::model::{Family, KernelRoute, Link, Resilience, RouteKey, Rule, TABLE_MAIN};
use crate::rib::{HopSet, canonical};
use crate::status::reason;

/// Metric of imported default routes under `defaultRoute: Backup`.
pub const METRIC_BACKUP: u32 = 4_294_967_294;
/// Metric of the static gateways of last resort.
pub const METRIC_LAST_RESORT: u32 = 4_294_967_293;
/// Metric of the unreachable default that ends a `Strict` table.
pub const METRIC_STRICT: u32 = 4_294_967_295;

/// Learned routes that are kept for each one that the guardrail lets in: with its default all of today's Internet.
const LEARNED_PER_PROGRAMMED: u64 = 8;

/// Table and metric: where an import's routes go.
pub type TargetKey = (u32, u32);

/// The interfaces of the namespace, by index.
pub type Links = BTreeMap<u32, Link>;

/// What a plan is computed from.
#[derive(Debug, Clone, Copy)]
pub struct PlanInput<'a> {
    /// The merged intent.
    pub intent: &'a Intent,
    /// The links as last seen.
    pub links: &'a Links,
    /// The tables that zebra writes itself.
    pub zebra: &'a ZebraTables,
    /// What else the node knows.
    pub facts: &'a NodeFacts,
}

/// What is known of the tables that zebra writes itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ZebraTables {
    /// Those that its routes carry, or did.
    pub tables: BTreeSet<u32>,
    /// A replay has ended since the agent's start: before, zebra may have more.
    pub complete: bool,
}

/// Everything desired that does not depend on single learned routes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// In the order of the intent.
    pub imports: Vec<ImportPlan>,
    by_source: FxHashMap<u32, SmallVec<[u16; 2]>>,
    by_target: FxHashMap<(u32, u32), SmallVec<[u16; 2]>>,
    /// Connected copies, last-resort gateways and unreachable defaults, by key.
    pub static_routes: BTreeMap<RouteKey, StaticRoute>,
    /// Gateways of fixed routes that have others beside them, by ifindex: kept resolved, so that their failure shows.
    pub watched_gateways: BTreeSet<(u32, IpAddr)>,
    /// All policy rules.
    pub rules: BTreeSet<Rule>,
    /// Devices to make, members, addresses to add. The sink is steering's.
    pub devices: Devices,
    /// Sysctls that VRFs need, as paths below `/proc/sys`, and their values.
    pub sysctls: BTreeMap<String, String>,
    /// Tables that others use: nothing is written there.
    occupied: BTreeMap<u32, String>,
    /// What could not be planned, and why.
    pub problems: Vec<Problem>,
    protected: Protected,
    /// Ceiling over all imports.
    pub max_routes_per_node: u64,
}

/// A route that exists because of a manifest and the links, not because of FRR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRoute {
    /// The route.
    pub route: KernelRoute,
    /// Whose it is: `VRFAttachment/red`.
    pub owner: ObjectRef,
    /// Why it is there: a reason of routes.
    pub purpose: &'static str,
}

/// Something in the intent that cannot be done as things are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object it stands in.
    pub object: ObjectRef,
    /// Condition reason, such as `InterfaceNotFound`.
    pub reason: &'static str,
    /// For a person: what, and what to do.
    pub message: String,
}

/// Why a learned route is not imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// `protocols` does not list its protocol.
    Protocol,
    /// `allowed` does not match it.
    Filtered,
    /// A default route under `defaultRoute: Reject`, or forbidden by the guardrail.
    DefaultRoute,
    /// Equals or lies inside a protected prefix.
    Protected,
    /// None of its nexthops leaves by `from.interfaces`.
    Interface,
    /// `maxRoutes` of the import.
    Limit,
    /// `maxRoutesPerNode` of the guardrails.
    NodeLimit,
    /// FRR announced no usable nexthop.
    Unresolved,
    /// FRR's first replay has not ended, and the table may be zebra's.
    Replay,
}

impl Rejection {
    /// The reason as status and `docs/cli.md` name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Protocol => reason::PROTOCOL_NOT_SELECTED,
            Self::Filtered => reason::NOT_ALLOWED,
            Self::DefaultRoute => reason::DEFAULT_ROUTE_REJECTED,
            Self::Protected => reason::PROTECTED_PREFIX,
            Self::Interface => reason::INTERFACE_NOT_SELECTED,
            Self::Limit => reason::MAX_ROUTES,
            Self::NodeLimit => reason::MAX_ROUTES_PER_NODE,
            Self::Unresolved => reason::NEXTHOP_UNRESOLVED,
            Self::Replay => reason::REPLAY_INCOMPLETE,
        }
    }
}

/// A compiled import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPlan {
    /// As merged.
    pub import: Import,
    /// Indices that `from.interfaces` names now; `None`: any.
    interfaces: Option<BTreeSet<u32>>,
    /// Nexthops are written `onlink`: the kernel validates gateways against main only.
    onlink: bool,
    /// Written with gateways inside the route, never by nexthop id (default routes in main).
    inline_default: bool,
    /// Why nothing of it is programmed, if so.
    pub blocked: Option<&'static str>,
    /// It goes into the table of a VRF device, which zebra may write too, as its first replay will tell: until then nothing
    /// new is written.
    pub waits: bool,
    /// What zebra writes into `from.table` forwards nothing by itself (`zebra -R`): main and the tables of VRF
    /// devices do.
    pub diverted: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Protected {
    hosts: FxHashSet<IpNet>,
    networks: Vec<IpNet>,
}

impl Plan {
    /// Compiles the plan.
    #[must_use]
    pub fn compile(input: PlanInput<'_>) -> Self {
        let PlanInput { intent, links, facts, .. } = input;
        let mut plan = Self {
            max_routes_per_node: intent.config.max_routes_per_node,
            protected: Protected::new(intent, links, facts),
            occupied: facts.occupied.clone(),
            ..Self::default()
        };
        for import in &intent.imports {
            plan.add_import(import, input);
        }
        plan.report_occupied(intent);
        devices::compile(&mut plan, intent, links, facts);
        statics::compile(&mut plan, intent, links, facts);
        rules::compile(&mut plan, intent, facts);
        plan.problems.sort();
        plan.problems.dedup();
        plan
    }

    fn add_import(&mut self, import: &Import, input: PlanInput<'_>) {
        let PlanInput { intent, links, zebra, .. } = input;
        let interfaces = (!import.from_interfaces.is_empty()).then(|| {
            let matches =
                |link: &&Link| import.from_interfaces.iter().any(|name| matches_name(name, &link.name));
            links.values().filter(matches).map(|link| link.ifindex).collect()
        });
        let owned_by_zebra = import.program && zebra.tables.contains(&import.into.table);
        let occupied = import.program && self.occupied.contains_key(&import.into.table);
        let blocked = match (owned_by_zebra, occupied) {
            (true, _) => Some(reason::TABLE_OWNED_BY_ZEBRA),
            (false, true) => Some(reason::TABLE_OCCUPIED),
            (false, false) => None,
        };
        if let (true, Some(owner)) = (owned_by_zebra, import.owners.first()) {
            self.problems.push(Problem {
                object: owner.clone(),
                reason: reason::TABLE_OWNED_BY_ZEBRA,
                message: format!(
                    "FRR writes table {0} itself (its routes carry that table): set `action: Observe`, or import into \
                     another table, or start zebra with `-R` and import from that table",
                    import.into.table
                ),
            });
        }
        let Ok(index) = u16::try_from(self.imports.len()) else { return };
        self.by_source.entry(import.from_table).or_default().push(index);
        for metric in BTreeSet::from([import.metric, METRIC_BACKUP]) {
            self.by_target.entry((import.into.table, metric)).or_default().push(index);
        }
        self.imports.push(ImportPlan {
            interfaces,
            onlink: import.into.table != TABLE_MAIN,
            inline_default: import.into.table == TABLE_MAIN,
            blocked,
            waits: import.program && !zebra.complete && is_vrf(import.into.table, intent, links),
            diverted: import.program && !forwards_by_itself(import.from_table, links),
            import: import.clone(),
        });
    }

    /// The VRFs whose tables are free for them.
    fn vrfs_in_force<'i>(&self, intent: &'i Intent) -> Vec<&'i Vrf> {
        intent.vrfs.iter().filter(|vrf| !self.occupied.contains_key(&vrf.table)).collect()
    }

    /// Names everybody who asks for a table that others use.
    fn report_occupied(&mut self, intent: &Intent) {
        let vrfs = intent.vrfs.iter().map(|vrf| (vrf.table, &vrf.owners));
        let imports = intent.imports.iter().filter(|import| import.program);
        let imports = imports.map(|import| (import.into.table, &import.owners));
        let policies = intent.rules.iter().map(|rule| (rule.table, &rule.owners));
        for (table, owners) in vrfs.chain(imports).chain(policies) {
            let (Some(held), Some(owner)) = (self.occupied.get(&table), owners.first()) else { continue };
            self.problems.push(Problem {
                object: owner.clone(),
                reason: reason::TABLE_OCCUPIED,
                message: format!(
                    "table {table} holds routes of others ({held}): remove them (`ip route show table {table}`), or use \
                     another table; nothing is written there"
                ),
            });
        }
    }

    /// Whether both plans judge learned routes alike, so that only fixed routes and rules may differ.
    #[must_use]
    pub fn judges_like(&self, other: &Self) -> bool {
        self.imports == other.imports
            && self.protected == other.protected
            && self.max_routes_per_node == other.max_routes_per_node
    }

    /// Learned routes that are kept at most, programmed or not: a peer of FRR's that announces millions costs memory only
    /// up to here.
    #[must_use]
    pub fn max_learned_routes(&self) -> u64 {
        self.max_routes_per_node.saturating_mul(LEARNED_PER_PROGRAMMED)
    }

    /// Takes over the fixed routes of another plan that serve `purpose`.
    pub fn adopt_statics(&mut self, other: &Self, purpose: &str) {
        let routes = other.static_routes.iter().filter(|(_, route)| route.purpose == purpose);
        self.static_routes.extend(routes.map(|(key, route)| (*key, route.clone())));
    }

    /// The imports that take routes of this FPM table.
    pub fn imports_from(&self, table: u32) -> impl Iterator<Item = (u16, &ImportPlan)> + '_ {
        self.numbered(self.by_source.get(&table))
    }

    /// The imports that may put a route with this metric into this kernel table.
    pub fn imports_into(&self, table: u32, metric: u32) -> impl Iterator<Item = (u16, &ImportPlan)> + '_ {
        self.numbered(self.by_target.get(&(table, metric)))
    }

    fn numbered<'a>(
        &'a self,
        indices: Option<&'a SmallVec<[u16; 2]>>,
    ) -> impl Iterator<Item = (u16, &'a ImportPlan)> + 'a {
        indices
            .into_iter()
            .flatten()
            .filter_map(|index| Some((*index, self.imports.get(usize::from(*index))?)))
    }

    /// Whether a prefix equals or lies inside a protected one.
    #[must_use]
    pub fn is_protected(&self, prefix: &IpNet) -> bool {
        self.protected.covers(prefix)
    }

    /// Whether the import takes a route to `prefix`, nexthops aside.
    ///
    /// `learned` tells whether FRR also announces another prefix from the same table: half of the address space is
    /// a default route only together with the other half.
    ///
    /// # Errors
    /// The reason, if it does not.
    pub fn accepts(
        &self,
        import: &ImportPlan,
        prefix: &IpNet,
        protocol: u8,
        learned: impl Fn(&IpNet) -> bool,
    ) -> Result<(), Rejection> {
        let spec = &import.import;
        if !spec.protocols.is_empty() && !spec.protocols.contains(&protocol) {
            return Err(Rejection::Protocol);
        }
        if is_default(prefix, learned) {
            if spec.default_route == DefaultRoute::Reject {
                return Err(Rejection::DefaultRoute);
            }
        } else if !spec.allowed.matches(prefix) {
            return Err(Rejection::Filtered);
        }
        if self.protected.covers(prefix) {
            return Err(Rejection::Protected);
        }
        Ok(())
    }
}

/// Whether the kernel looks this table up without anybody's rule.
fn forwards_by_itself(table: u32, links: &Links) -> bool {
    table == TABLE_MAIN || is_of_device(table, links)
}

fn is_of_device(table: u32, links: &Links) -> bool {
    links.values().any(|link| link.vrf_table == Some(table))
}

/// Whether a table is that of a VRF device, there or to come: such a device is a VRF of FRR's, too.
fn is_vrf(table: u32, intent: &Intent, links: &Links) -> bool {
    let by_manifest = |vrf: &Vrf| vrf.table == table && vrf.mode != VrfMode::TableOnly;
    is_of_device(table, links) || intent.vrfs.iter().any(by_manifest)
}

impl ImportPlan {
    /// Table and metric that a prefix gets.
    #[must_use]
    pub fn target(&self, prefix: &IpNet) -> (u32, u32) {
        let backup = self.import.default_route == DefaultRoute::Backup && prefix.prefix_len() <= 1;
        (self.import.into.table, if backup { METRIC_BACKUP } else { self.import.metric })
    }

    /// Whether a prefix may get into the kernel there by this import. What it gives another table or metric says nothing
    /// about a route there.
    #[must_use]
    pub fn writes_to(&self, table: u32, metric: u32, prefix: &IpNet) -> bool {
        self.import.program && self.blocked.is_none() && self.target(prefix) == (table, metric)
    }

    /// The nexthops that remain for this import; empty when none leaves by `from.interfaces`.
    #[must_use]
    pub fn hops(&self, hops: &HopSet) -> HopSet {
        let wanted = |ifindex: u32| self.interfaces.as_ref().is_none_or(|set| set.contains(&ifindex));
        let mut kept: HopSet = hops.iter().copied().filter(|(hop, _)| wanted(hop.ifindex)).collect();
        for (hop, _) in &mut kept {
            // A nexthop without a gateway is directly connected; onlink means nothing there.
            hop.onlink = hop.gateway.is_some() && (hop.onlink || self.onlink);
        }
        kept = canonical(kept);
        kept.truncate(usize::from(self.import.max_paths.max(1)));
        scale_weights(&mut kept);
        kept
    }

    /// How flows are spread over several nexthops, where the import asks for resilient groups.
    #[must_use]
    pub fn resilience(&self) -> Option<Resilience> {
        self.import.resilient.as_ref().map(|asked| Resilience {
            // A group has at least one bucket for each nexthop.
            buckets: asked.buckets.max(self.import.max_paths),
            idle_timer: u32::try_from(asked.idle_timer.0.as_millis() / 10).unwrap_or(u32::MAX),
        })
    }

    /// The preferred source for routes of the prefix's family.
    #[must_use]
    pub fn source(&self, prefix: &IpNet) -> Option<IpAddr> {
        self.import.preferred_source.filter(|source| source.is_ipv4() == prefix.addr().is_ipv4())
    }

    /// Whether the route must carry its gateways itself (default routes in main are read by tools that know no
    /// nexthop objects).
    #[must_use]
    pub fn inline(&self, prefix: &IpNet) -> bool {
        self.inline_default && prefix.prefix_len() == 0
    }
}

impl Allowed {
    /// Whether a prefix may come in.
    #[must_use]
    pub fn matches(&self, prefix: &IpNet) -> bool {
        match self {
            Self::All => true,
            Self::Prefixes(list) => list.iter().any(|entry| entry.matches(prefix)),
        }
    }
}

impl PrefixMatch {
    /// Prefix-list semantics: inside `prefix`, with a length in `ge..=le`.
    #[must_use]
    pub fn matches(&self, prefix: &IpNet) -> bool {
        (self.ge..=self.le).contains(&prefix.prefix_len()) && self.prefix.contains(prefix)
    }
}

impl Protected {
    fn new(intent: &Intent, links: &Links, facts: &NodeFacts) -> Self {
        let mut protected = Self::default();
        for prefix in &intent.config.protected_prefixes {
            protected.add(*prefix);
        }
        for prefix in intent.config.auto_protect.iter().flat_map(|kind| facts.protected(*kind)) {
            protected.add(prefix);
        }
        if intent.config.auto_protect.contains(&AutoProtect::NodeAddresses) {
            for address in links.values().flat_map(|link| &link.addresses) {
                protected.add(IpNet::from(address.net.addr()));
            }
        }
        protected
    }

    fn add(&mut self, prefix: IpNet) {
        if prefix.prefix_len() == prefix.max_prefix_len() {
            self.hosts.insert(prefix);
        } else {
            self.networks.push(prefix);
        }
    }

    fn covers(&self, prefix: &IpNet) -> bool {
        self.hosts.contains(prefix) || self.networks.iter().any(|network| network.contains(prefix))
    }
}

/// Brings weights into 1 to 256, in proportion: what every kernel can hold (16 bits from 6.12 on).
fn scale_weights(hops: &mut HopSet) {
    let max = hops.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    for (_, weight) in hops {
        let scaled = if max > 256 { u64::from(*weight) * 256 / u64::from(max) } else { u64::from(*weight) };
        *weight = u32::try_from(scaled.clamp(1, 256)).unwrap_or(256);
    }
}

/// /0, or one of a pair of /1s that together are the default route.
fn is_default(prefix: &IpNet, learned: impl Fn(&IpNet) -> bool) -> bool {
    match prefix.prefix_len() {
        0 => true,
        1 => sibling(prefix).is_some_and(|other| learned(&other)),
        _ => false,
    }
}

/// The other half of the address space, for a /1.
#[must_use]
pub fn sibling(prefix: &IpNet) -> Option<IpNet> {
    if prefix.prefix_len() != 1 {
        return None;
    }
    let whole = prefix.supernet()?;
    whole.subnets(1).ok()?.find(|half| half != prefix)
}

/// Whether `pattern` (a name or a glob) names the interface.
#[must_use]
pub fn matches_name(pattern: &str, name: &str) -> bool {
    pattern == name || (is_glob(pattern) && glob_match::glob_match(pattern, name))
}

/// Whether an interface name is a glob.
#[must_use]
pub fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// The table of each interface: that of the VRF that lists it, or of the VRF device it belongs to, else main.
#[must_use]
pub fn interface_tables(intent: &Intent, links: &Links) -> BTreeMap<u32, u32> {
    let attached = |link: &Link| {
        let lists = |vrf: &&Vrf| vrf.interfaces.iter().any(|i| i.name == link.name);
        intent.vrfs.iter().find(lists).map(|vrf| vrf.table)
    };
    let device = |link: &Link| link.master.and_then(|master| links.get(&master)?.vrf_table);
    links
        .values()
        .map(|link| (link.ifindex, attached(link).or_else(|| device(link)).unwrap_or(TABLE_MAIN)))
        .collect()
}

/// The unspecified prefix of a family.
#[must_use]
pub fn default_prefix(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::Ipv6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}
