#!/usr/bin/env python3
"""Decodes FPM captures to the JSON lines of `backtrail fpm decode`, without any code of the crate's.

The files in `golden/` were made with it: `golden.py CAPTURE... > golden/NAME.jsonl`. It reads what it needs from the
kernel's headers' layout and from fpm.proto's field numbers, and fails on whatever it does not know.
"""
import json
import socket
import struct
import sys

RTM = {24: ("add", "route"), 25: ("del", "route"), 104: ("add", "nexthop"), 105: ("del", "nexthop")}
TYPES = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
FAMILIES = {2: "ipv4", 10: "ipv6"}
SEG6_MODES = {0: "inline", 1: "encap", 2: "l2encap", 3: "encap.red", 4: "l2encap.red"}


def attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data), (length, len(data))
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


def u32(data):
    return struct.unpack("=I", data)[0]


def ip(data):
    return socket.inet_ntop(socket.AF_INET if len(data) == 4 else socket.AF_INET6, data)


def encap(kind, data):
    kind = struct.unpack("=H", kind)[0]
    assert kind == 5, kind
    header = attributes(data)[1]
    mode, _, _, rtype, left, first, _, _ = struct.unpack_from("=iBBBBBBH", header)
    assert rtype == 4 and left == first, header.hex()
    segments = [ip(header[12 + 16 * n:28 + 16 * n]) for n in range(first + 1)]
    return {"type": "seg6", "mode": SEG6_MODES[mode], "segments": segments[::-1]}


def nexthop(found, gateway, oif, flags, encap_kind, encap_data, via=None):
    hop = {}
    if gateway in found:
        hop["via"] = ip(found[gateway])
    if via in found:
        hop["via"] = ip(found[via][2:])
    if oif in found:
        hop["dev"] = u32(found[oif])
    if flags & 4:
        hop["onlink"] = True
    if encap_data in found:
        hop["encap"] = encap(found[encap_kind], found[encap_data])
    return hop


def multipath(data):
    hops = []
    while data:
        length, flags, more, index = struct.unpack_from("=HBBi", data)
        hop = nexthop(attributes(data[8:length]), 5, None, flags, 21, 22, 18)
        hop.update(dev=index, weight=more + 1)
        hops.append(hop)
        data = data[(length + 3) & ~3:]
    return hops


def route(op, body):
    family, dst_len, src_len, _, table, protocol, _, kind, flags = struct.unpack_from("=BBBBBBBBI", body)
    found = attributes(body[12:])
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
        line["mtu"] = u32(attributes(found[8])[2])
    if 7 in found:
        line["prefsrc"] = ip(found[7])
    if 30 in found:
        line["nhid"] = u32(found[30])
    elif 9 in found:
        line["nexthops"] = multipath(found[9])
    elif kind == 1 and {4, 5, 18, 22} & found.keys():
        line["nexthops"] = [nexthop(found, 5, 4, flags, 21, 22, 18)]
    return line


def nexthop_object(op, body):
    family, _, protocol, _, flags = struct.unpack_from("=BBBBI", body)
    found = attributes(body[8:])
    line = {"id": u32(found[1]), "protocol": protocol}
    if family:
        line["family"] = FAMILIES[family]
    if op == "del":
        return line
    if 2 in found:
        group = struct.iter_unpack("=IBBH", found[2])
        line["group"] = [{"id": member, "weight": (high << 8 | low) + 1} for member, low, high, _ in group]
    elif 4 in found:
        line["type"] = "blackhole"
    else:
        line["nexthops"] = [nexthop(found, 6, 5, flags, 7, 8)]
    return line


def netlink(payload):
    while payload:
        length, kind = struct.unpack_from("=IH", payload)
        op, name = RTM[kind]
        body = payload[16:length]
        yield {"op": op, "kind": name, **(route if name == "route" else nexthop_object)(op, body)}
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


def protobuf_nexthop(data):
    found = fields(data)
    hop = {}
    if 2 in found:
        hop["dev"] = fields(found[2][0])[1][0]
    if 3 in found:
        address = fields(found[3][0])
        if 1 in address:
            hop["via"] = ip(struct.pack("!I", fields(address[1][0])[1][0]))
        else:
            hop["via"] = ip(fields(address[2][0])[1][0])
    return hop


def protobuf(payload):
    message = fields(payload)
    kind = message[1][0]
    body = fields(message[kind + 1][0])
    prefix = fields(fields(body[4][0])[1][0])
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
    return [line]


def main():
    for name in sys.argv[1:]:
        with open(name, "rb") as capture:
            stream = capture.read()
        while stream:
            version, kind, length = struct.unpack_from("!BBH", stream)
            assert version == 1 and length <= len(stream)
            encoding, decode = {1: ("netlink", netlink), 2: ("protobuf", protobuf)}[kind]
            for line in decode(stream[4:length]):
                print(json.dumps({"encoding": encoding, **line}, sort_keys=True, separators=(",", ":")))
            stream = stream[length:]


main()
