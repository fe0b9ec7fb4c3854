#!/usr/bin/env python3
"""Decodes FPM captures to the JSON lines of `backtrail fpm decode`, without any code of the crate's.

The files in `golden/` were made with it: `golden.py CAPTURE... > golden/NAME.jsonl`. It knows the layout of the
kernel's headers and fpm.proto's field numbers. Attributes that have no place in the lines are counted in `UNKNOWN`.
"""
import json
import socket
import struct
import sys

RTM = {
    24: ("add", "route"), 25: ("del", "route"), 28: ("add", "neighbor"), 29: ("del", "neighbor"),
    104: ("add", "nexthop"), 105: ("del", "nexthop"),
}
TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
FAMILIES = {2: "ipv4", 7: "bridge", 10: "ipv6", 28: "mpls"}
SEG6_MODES = {0: "inline", 1: "encap", 2: "l2encap", 3: "encap.red", 4: "l2encap.red"}
SEG6_ACTIONS = {
    1: "End", 2: "End.X", 3: "End.T", 4: "End.DX2", 5: "End.DX6", 6: "End.DX4", 7: "End.DT6", 8: "End.DT4",
    9: "End.B6", 10: "End.B6.Encaps", 11: "End.BM", 12: "End.S", 13: "End.AS", 14: "End.AM", 15: "End.BPF",
    16: "End.DT46",
}
FLAVORS = {1: "psp", 2: "usp", 3: "usd", 4: "next-csid"}
UNKNOWN = []


def attributes(data, known):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data), (length, len(data))
        kind &= 0x3FFF
        if kind in known:
            found[kind] = data[4:length]
        else:
            UNKNOWN.append(kind)
        data = data[(length + 3) & ~3:]
    return found


def u16(data):
    return struct.unpack("=H", data)[0]


def u32(data):
    return struct.unpack("=I", data)[0]


def ip(data):
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def present(found, **names):
    """The fields whose attributes are there: name = (attribute, reader)."""
    return {name: read(found[kind]) for name, (kind, read) in names.items() if kind in found}


def labels(data):
    return [entry >> 12 for entry, in struct.iter_unpack("!I", data)]


def seg6(data):
    found = attributes(data, {1, 2})
    header = found[1]
    mode, _, size, rtype, left, first, flags, tag = struct.unpack_from("=iBBBBBBH", header)
    assert (rtype, left, flags, tag, size) == (4, first, 0, 0, 2 * (first + 1)), header.hex()
    segments = [ip(header[12 + 16 * n:28 + 16 * n]) for n in range(first + 1)]
    return {"type": "seg6", "mode": SEG6_MODES[mode], "segments": segments[::-1], **present(found, src=(2, ip))}


def flavors(data):
    found = attributes(data, {1, 2, 3})
    bits = u32(found[1])
    names = [name for bit, name in sorted(FLAVORS.items()) if bits >> bit & 1]
    return {"operations": names, **present(found, lblen=(2, ord), nflen=(3, ord))}


def seg6local(data):
    found = attributes(data, {1, 3, 4, 5, 6, 7, 9, 11})
    fields = present(found, table=(3, u32), nh4=(4, ip), nh6=(5, ip), iif=(6, u32), oif=(7, u32),
                     vrftable=(9, u32), flavors=(11, flavors))
    return {"type": "seg6local", "action": SEG6_ACTIONS[u32(found[1])], **fields}


def tunnel(name):
    def read(data):
        wide = lambda value: struct.unpack("!Q", value)[0]
        return {"type": name, **present(attributes(data, {1, 2, 3}), id=(1, wide), dst=(2, ip), src=(3, ip))}
    return read


def encap(kind, data):
    kind = u16(kind)
    known = {
        1: lambda data: {"type": "mpls", "labels": labels(attributes(data, {1})[1])},
        2: tunnel("ip"), 4: tunnel("ip6"), 5: seg6, 7: seg6local,
        100: lambda data: {"type": "vxlan", "vni": u32(attributes(data, {0})[0])},
    }
    if kind not in known:
        UNKNOWN.append(kind)
        return {"type": "raw", "encap_type": kind, "hex": data.hex()}
    return known[kind](data)


def nexthop(found, gateway, oif, flags, encap_kind, encap_data, via=None, lsp=False):
    hop = {}
    if gateway in found:
        hop["via"] = ip(found[gateway])
    if via in found:
        hop["via"] = ip(found[via][2:])
    if oif in found:
        hop["dev"] = u32(found[oif])
    if flags & 4:
        hop["onlink"] = True
    if lsp:
        hop["labels"] = labels(found.get(19, b""))
    if encap_data in found:
        hop["encap"] = encap(found[encap_kind], found[encap_data])
    return hop


def multipath(data, lsp=False):
    hops = []
    while data:
        length, flags, more, index = struct.unpack_from("=HBBi", data)
        hop = nexthop(attributes(data[8:length], HOP), 5, None, flags, 21, 22, 18, lsp)
        hop.update(dev=index, weight=more + 1)
        hops.append(hop)
        data = data[(length + 3) & ~3:]
    return hops


HOP = {4, 5, 18, 19, 21, 22}
# Of no use to a reader of zebra's routes: what the kernel adds in its own dumps.
KERNELS = {3, 12, 20, 23}


def lsp(op, header, found):
    _, dst_len, _, _, table, protocol, _, kind, flags = header
    assert dst_len == 20
    line = {"kind": "lsp", "family": "mpls", "table": u32(found[15]) if 15 in found else table}
    line.update(dst=labels(found[1])[0], protocol=protocol)
    if op == "add":
        line["type"] = TYPES[kind]
    if 9 in found:
        line["nexthops"] = multipath(found[9], lsp=True)
    elif HOP & found.keys():
        line["nexthops"] = [nexthop(found, 5, 4, flags, 21, 22, 18, lsp=True)]
    return line


def route(op, body):
    header = struct.unpack_from("=BBBBBBBBI", body)
    family, dst_len, src_len, _, table, protocol, _, kind, flags = header
    found = attributes(body[12:], HOP | KERNELS | {1, 2, 6, 7, 8, 9, 11, 15, 30})
    if family == 28:
        return lsp(op, header, found)
    line = {"family": FAMILIES[family], "table": u32(found[15]) if 15 in found else table}
    line["dst"] = "%s/%d" % (ip(found[1]), dst_len)
    if src_len:
        line["src"] = "%s/%d" % (ip(found[2]), src_len)
    line["protocol"] = protocol
    if 6 in found:
        line["metric"] = u32(found[6])
    if op == "del":
        return line
    line["type"] = TYPES[kind]
    if 8 in found:
        line.update(present(attributes(found[8], {2}), mtu=(2, u32)))
    line.update(present(found, prefsrc=(7, ip), realm=(11, u32)))
    if 30 in found:
        line["nhid"] = u32(found[30])
    elif 9 in found:
        line["nexthops"] = multipath(found[9])
    elif kind == 1 and {4, 5, 18, 22} & found.keys():
        line["nexthops"] = [nexthop(found, 5, 4, flags, 21, 22, 18)]
    return line


def resilient(data):
    return present(attributes(data, {1, 2, 3}), buckets=(1, u16), idle_timer=(2, u32), unbalanced_timer=(3, u32))


def nexthop_object(op, body):
    family, _, protocol, _, flags = struct.unpack_from("=BBBBI", body)
    found = attributes(body[8:], {1, 2, 3, 4, 5, 6, 7, 8, 12})
    line = {"id": u32(found[1]), "protocol": protocol}
    if op == "del":
        return line
    if family:
        line["family"] = FAMILIES[family]
    if 2 in found:
        group = struct.iter_unpack("=IBBH", found[2])
        line["group"] = [{"id": member, "weight": (high << 8 | low) + 1} for member, low, high, _ in group]
        if 12 in found:
            line["resilient"] = resilient(found[12])
    elif 4 in found:
        line["type"] = "blackhole"
    else:
        line["nexthops"] = [nexthop(found, 6, 5, flags, 7, 8)]
    return line


def neighbor(op, body):
    family, index, _, _, _ = struct.unpack_from("=BxxxiHBB", body)
    found = attributes(body[12:], {1, 2, 5, 7, 9, 12, 13})
    line = {"family": FAMILIES[family]}
    if index:
        line["dev"] = index
    mac = lambda data: data.hex(":")
    line.update(present(found, dst=(1, ip), lladdr=(2, mac), vlan=(5, u16), vni=(7, u32), master=(9, u32),
                        protocol=(12, ord), nhid=(13, u32)))
    return line


def raw(kind, body):
    line = {"kind": "raw", "nlmsg_type": kind, "hex": body.hex()}
    if kind >= 16 and kind % 4 < 2:
        line["op"] = ("add", "del")[kind % 4]
    return line


def netlink(payload):
    bodies = {"route": route, "nexthop": nexthop_object, "neighbor": neighbor}
    while payload:
        length, kind = struct.unpack_from("=IH", payload)
        body = payload[16:length]
        op, name = RTM.get(kind, (None, None))
        if name is None or name == "route" and body[0] not in (2, 10, 28):
            yield raw(kind, body)
        else:
            yield {"op": op, "kind": name, **bodies[name](op, body)}
        payload = payload[(length + 3) & ~3:]


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data):
    found = {}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            length, at = varint(data, at)
            value = data[at:at + length]
            at += length
        else:
            assert tag & 7 == 5, tag
            value = struct.unpack_from("<I", data, at)[0]
            at += 4
        found.setdefault(tag >> 3, []).append(value)
    return found


def message(found, number):
    return fields(found[number][0])


def protobuf_nexthop(data):
    found = fields(data)
    hop = {}
    if 2 in found:
        hop["dev"] = message(found, 2)[1][0]
    if 3 in found:
        address = message(found, 3)
        if 1 in address:
            hop["via"] = ip(struct.pack("!I", message(address, 1)[1][0]))
        else:
            hop["via"] = ip(message(address, 2)[1][0])
    return hop


# Field of SRv6LocalSid -> action, flavors, what it holds.
BEHAVIORS = {
    3: ("End", [], None), 4: ("End.X", [], "nexthop"), 5: ("End.T", [], "vrf"), 7: ("End.DX6", [], "nexthop"),
    8: ("End.DX4", [], "nexthop"), 9: ("End.DT6", [], "vrf"), 10: ("End.DT4", [], "vrf"), 11: ("End.DT46", [], "vrf"),
    12: ("End", ["psp", "usd", "next-csid"], None), 13: ("End.X", ["psp", "usd", "next-csid"], "nexthop"),
    14: ("End.DT6", ["next-csid"], "vrf"), 15: ("End.DT4", ["next-csid"], "vrf"), 16: ("End.DT46", ["next-csid"], "vrf"),
}


def local_sid(op, sid):
    line = {"op": op, "kind": "route", "vrf": 0, "family": "ipv6", "dst": ip(message(sid, 1)[1][0]) + "/128"}
    if op == "del":
        return line
    number, = sid.keys() & BEHAVIORS.keys()
    action, operations, holds = BEHAVIORS[number]
    behavior = message(sid, number)
    encap, hop = {"type": "seg6local", "action": action}, {}
    if operations:
        encap["flavors"] = {"operations": operations}
        if 2 in sid:
            sid_format = message(sid, 2)
            encap["flavors"].update(lblen=sid_format[1][0], nflen=sid_format[2][0] + sid_format[3][0])
    if holds == "vrf":
        encap["vrf"] = behavior[1][0]
    elif holds == "nexthop":
        to = protobuf_nexthop(behavior[1][0])
        if "dev" in to:
            encap["oif"] = hop["dev"] = to["dev"]
        if "via" in to:
            encap["nh6" if ":" in to["via"] else "nh4"] = to["via"]
    return {**line, "type": "unicast", "nexthops": [{**hop, "encap": encap}]}


def protobuf(payload):
    found = fields(payload)
    kind = found[1][0]
    if kind not in (1, 2, 3, 4):
        return [{"kind": "raw", "hex": payload.hex()}]
    if kind > 2:
        return [local_sid({3: "add", 4: "del"}[kind], message(found, 4))]
    body = message(found, kind + 1)
    prefix = message(message(body, 4), 1)
    size = 4 if body[2][0] == 1 else 16
    line = {"op": {1: "add", 2: "del"}[kind], "kind": "route", "vrf": body[1][0]}
    line["family"] = {4: "ipv4", 16: "ipv6"}[size]
    line["dst"] = "%s/%d" % (ip(prefix[2][0].ljust(size, b"\0")), prefix[1][0])
    if kind == 1:
        line["type"] = {1: "unicast", 2: "unreachable", 3: "blackhole"}[body[5][0]]
        line["protocol"] = body[6][0]
        line["metric"] = body[8][0] & 0xFFFFFFFF
        if line["type"] == "unicast":
            line["nexthops"] = [protobuf_nexthop(hop) for hop in body.get(9, [])]
        if 11 in body:
            wrap = {"type": "seg6", "mode": "encap", "segments": [ip(message(body, 11)[1][0])]}
            if 10 in body:
                wrap["src"] = ip(message(body, 10)[1][0])
            for hop in line["nexthops"]:
                hop["encap"] = wrap
    return [line]


def lines(stream):
    while stream:
        version, kind, length = struct.unpack_from("!BBH", stream)
        assert version == 1 and length <= len(stream)
        encoding, decode = {1: ("netlink", netlink), 2: ("protobuf", protobuf)}[kind]
        for line in decode(stream[4:length]):
            yield {"encoding": encoding, **line}
        stream = stream[length:]


def text(line):
    return json.dumps(line, sort_keys=True, separators=(",", ":"))


def main():
    for name in sys.argv[1:]:
        with open(name, "rb") as capture:
            for line in lines(capture.read()):
                print(text(line))
        assert not UNKNOWN, (name, UNKNOWN)


if __name__ == "__main__":
    main()
