//! A packet in the kernel, and the helpers that read and change it.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_check_mtu_ret::BPF_MTU_CHK_RET_SEGS_TOOBIG;
use aya_ebpf::bindings::{__sk_buff, bpf_check_mtu_flags};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::programs::TcContext;
use backtrail_ebpf_common::packet::fast::{Ethernet, Plain4, Plain6};
use backtrail_ebpf_common::packet::{Bytes, Link};

/// `PACKET_HOST` of linux/if_packet.h: the frame is for this device's own address.
const PACKET_HOST: u32 = 0;
/// Length of an Ethernet header.
pub const ETHERNET: u32 = 14;

/// The packet of one run of a program.
#[derive(Clone, Copy)]
pub struct Skb(*mut __sk_buff);

/// Types that any bytes of a packet are a value of.
///
/// # Safety
///
/// No padding, no invalid values. Read at offsets where the kernel keeps the alignment, as it does for IP headers.
pub unsafe trait Plain {}
// SAFETY: structs of bytes; after an Ethernet header the kernel aligns to four on machines that care.
unsafe impl Plain for Ethernet {}
// SAFETY: as above.
unsafe impl Plain for Plain4 {}
// SAFETY: as above.
unsafe impl Plain for Plain6 {}
// SAFETY: bytes.
unsafe impl<const N: usize> Plain for [u8; N] {}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $field:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(self) -> u32 {
            // SAFETY: the context is valid while the program runs; the verifier checks each access.
            unsafe { (*self.0).$field }
        }
    )*};
}

impl Skb {
    /// The packet of `ctx`.
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    fields! {
        /// The device whose hook runs.
        ifindex: ifindex,
        /// Bytes, L2 header included.
        len: len,
        /// Payload of each segment; 0 without GSO.
        gso_size: gso_size,
        packet_type: pkt_type,
        vlan_present: vlan_present,
        vlan_tci: vlan_tci,
        data: data,
        data_end: data_end,
        protocol_be: protocol,
    }

    /// The first bytes at `offset` in place, if they are in the linear part.
    #[inline(always)]
    pub fn at<T: Plain>(&self, offset: usize) -> Option<&T> {
        let start = self.data() as usize;
        if start + offset + size_of::<T>() > self.data_end() as usize {
            return None;
        }
        // SAFETY: inside of the packet as just compared; for the rest see `Plain`.
        Some(unsafe { &*((start + offset) as *const T) })
    }

    /// Whether the frame was sent to this device's address, and to it alone.
    #[inline(always)]
    pub fn is_for_host(self) -> bool {
        self.packet_type() == PACKET_HOST
    }

    /// Whether the kernel holds a VLAN tag beside the packet. Priority tags (VLAN 0) are the device's own.
    #[inline(always)]
    pub fn has_vlan(self) -> bool {
        self.vlan_present() != 0 && self.vlan_tci() & 0xfff != 0
    }

    /// How the L2 header is to be read on a device with `length` bytes of it.
    #[inline(always)]
    pub fn link(self, length: u16, tagged: bool) -> Link {
        Link { length: u32::from(length), ethertype: u16::from_be(self.protocol_be() as u16), tagged }
    }

    /// Source MAC of an Ethernet frame.
    #[inline(always)]
    pub fn source_mac(&self) -> Option<[u8; 6]> {
        self.load(6)
    }

    /// Destination MAC of an Ethernet frame.
    #[inline(always)]
    pub fn destination_mac(&self) -> Option<[u8; 6]> {
        self.load(0)
    }

    /// Makes room for an Ethernet header in front, filled with zeros.
    #[inline(always)]
    pub fn push_ethernet(self) -> Result<(), ()> {
        // SAFETY: a helper call on the context.
        check(unsafe { helpers::bpf_skb_change_head(self.0, ETHERNET, 0) })
    }

    /// Removes the outermost VLAN tag, in or beside the packet.
    #[inline(always)]
    pub fn pop_vlan(self) -> Result<(), ()> {
        // SAFETY: a helper call on the context.
        check(unsafe { helpers::bpf_skb_vlan_pop(self.0) })
    }

    /// Cuts the packet to `length` bytes; it is no GSO packet any more.
    #[inline(always)]
    pub fn truncate(self, length: u32) -> Result<(), ()> {
        // SAFETY: a helper call on the context.
        check(unsafe { helpers::bpf_skb_change_tail(self.0, length, 0) })
    }

    /// Whether each segment of a GSO packet fits the MTU of a device, as far as the kernel can tell. Linux 5.12.
    #[inline(always)]
    pub fn has_segments_for(self, ifindex: u32) -> bool {
        let mut mtu = 0;
        let flags = u64::from(bpf_check_mtu_flags::BPF_MTU_CHK_SEGS);
        // SAFETY: a helper call on the context; the kernel writes one word.
        let result = unsafe { helpers::bpf_check_mtu(self.0.cast(), ifindex, &raw mut mtu, 0, flags) };
        result != i64::from(BPF_MTU_CHK_RET_SEGS_TOOBIG)
    }

    /// Overwrites bytes at `offset`.
    #[inline(always)]
    pub fn store<const N: usize>(self, offset: u32, bytes: &[u8; N]) -> Result<(), ()> {
        self.store_value(offset, bytes)
    }

    /// Overwrites bytes at `offset` by a value without padding.
    #[inline(always)]
    pub fn store_value<T>(self, offset: u32, value: &T) -> Result<(), ()> {
        let from = core::ptr::from_ref(value).cast();
        // SAFETY: the value is as long as its type; the verifier sees to it that all of it is initialized.
        check(unsafe { helpers::bpf_skb_store_bytes(self.0, offset, from, size_of::<T>() as u32, 0) })
    }

    /// The context, for helpers.
    #[inline(always)]
    pub fn context(self) -> *mut __sk_buff {
        self.0
    }

    /// Copies the bytes at `offset` to where they are wanted.
    #[inline(always)]
    pub fn fill<const N: usize>(self, offset: u32, to: &mut MaybeUninit<[u8; N]>) -> Result<(), ()> {
        // SAFETY: room for N bytes; the helper fills all of them, or fails and zeroes them.
        check(unsafe { helpers::bpf_skb_load_bytes(self.0.cast(), offset, to.as_mut_ptr().cast(), N as u32) })
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::uninit();
        self.fill(offset, &mut bytes).ok()?;
        // SAFETY: filled.
        Some(unsafe { bytes.assume_init() })
    }
}

/// A helper's result: 0, or a negative errno.
#[inline(always)]
fn check(result: i64) -> Result<(), ()> {
    if result == 0 { Ok(()) } else { Err(()) }
}
