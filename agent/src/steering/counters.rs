//! `rp_counters`: sums over CPUs, with the names of the fields.

use backtrail_ebpf_common::maps::Counters;

/// Lists every counter once; that none is missing is the compiler's to check.
macro_rules! counters {
    ($($field:ident),* $(,)?) => {
        /// Adds one CPU's counters to a sum.
        pub(super) fn add(sum: &mut Counters, part: &Counters) {
            let Counters { $($field,)* reserved: _ } = part;
            $(sum.$field = sum.$field.saturating_add(*$field);)*
        }

        /// The counters by name, as `rp_counters` calls them.
        #[must_use]
        pub fn named(counters: &Counters) -> Vec<(&'static str, u64)> {
            vec![$((stringify!($field), counters.$field)),*]
        }
    };
}

counters!(
    learned,
    adopted,
    moved,
    node_origin,
    transit,
    matched,
    steered,
    steered_mac,
    would_steer,
    path_down,
    dropped,
    fib_misses,
    mtu_exceeded,
    mtu_unfit,
    never,
    protected,
    excepted,
    other_service,
    midflow,
    icmp_errors,
    lost_fragments,
    truncated,
    malformed,
    too_deep,
    other_protocol,
    upper_device,
    full,
    sink_forwarded,
    sink_dropped,
    failed,
    confirmed,
);
