# mypy: ignore-errors
# What numba makes of device code, mypy does not know.
"""Counting weights on an NVIDIA GPU, in numba-cuda: edges per node and bin, sums of distances, sums of squares.

Everything that is added up is an integer, so threads add in any order. What is compiled into a kernel stands in this file.
Integers: numba widens to 64 bits whatever it computes, so what fits 32 bits is cut to them, which takes half the instructions; an
unsigned index is not looked at for being negative.
"""

from typing import Any

from numba import cuda, float64, int16, int32, int64, uint32, uint64

_TABLED = 2  # how distances are summed, as in `flat_table`: 0 not at all, 1 as reciprocals


@cuda.jit(device=True)
def _found(
    inside: Any, low: Any, shift: Any, words: Any, words_at: Any, bins_at: Any, starts: Any, starts_at: Any
) -> Any:
    """The bin of a pattern within the table. words, of 16 bits, and starts: int32; ..._at: where in these arrays each begins."""
    if shift == 0:
        return uint32(int64(words[uint32(words_at + inside - low)]) & 0xFFFF)
    run = uint32(int64(words[uint32(words_at + (inside >> shift) - (low >> shift))]) & 0xFFFF)
    while inside >= uint32(starts[uint32(starts_at + run + 1)]):  # seldom more than one run further
        run = uint32(run + 1)
    return uint32(int64(words[uint32(bins_at + run)]) & 0xFFFF)


@cuda.jit(device=True)
def _bin(pattern: Any, table: Any, near_table: Any, far_table: Any) -> Any:
    """The bin of the magnitude with these bits."""
    low, high, infinity, shift, width, bins_at, near = table
    inside = min(max(pattern, uint32(low)), uint32(high))
    if near:
        words, words_at, starts, starts_at = near_table
        found = _found(inside, low, shift, words, words_at, uint32(words_at + bins_at), starts, starts_at)
    else:
        words, starts = far_table
        found = _found(inside, low, shift, words, 0, bins_at, starts, 0)
    return uint32(width - 1) if pattern >= uint32(infinity) else found


@cuda.jit(device=True)
def _distance(pattern: Any, found: Any, low: Any, lengths: Any, scales: Any, units: Any) -> Any:
    """The distance of the edge whose magnitude has these bits, in units, rounded as on the CPU; 0 where it does not count."""
    mode, radius_count, mantissa_bits, first_exponent = lengths
    if mode == 0 or found > radius_count:
        return int64(0)
    if mode == _TABLED:
        return int64(units[uint32(pattern - low)])
    # 1/M has the digits of 1/|w|, and a scale is a power of two.
    implied = uint32(1 << mantissa_bits)
    mantissa = uint32(implied | (pattern & uint32(implied - 1)))
    scale = scales[uint32((pattern >> mantissa_bits) - first_exponent)]
    return int64(round(1.0 / float64(mantissa) * scale))


@cuda.jit(device=True)
def _prepare(share: Any, starts_at: Any, words_at: Any, counts_at: Any, width: Any, near: Any, arrays: Any) -> None:
    """Clear a block's counters, and copy what its threads look up to shared memory."""
    words, starts, scales, shared, shared_words, shared_scales = arrays
    thread, threads = uint32(cuda.threadIdx.x), uint32(cuda.blockDim.x)
    slots = share[4]
    i = thread
    while i < scales.size:
        shared_scales[i] = scales[i]
        i = uint32(i + threads)
    i = thread
    while i < width * slots:
        shared[uint32(counts_at + i)] = 0
        i = uint32(i + threads)
    if near:
        i = thread
        while i < starts.size:
            shared[uint32(starts_at + i)] = starts[i]
            i = uint32(i + threads)
        i = thread
        while i < words.size:
            shared_words[uint32(words_at + i)] = words[i]
            i = uint32(i + threads)
    cuda.syncthreads()


@cuda.jit(device=True)
def _count_lane(
    bits: Any, mask: Any, at: Any, step: Any, number: Any, shared: Any, slot: Any, slots: Any, tables: Any, lengths: Any
) -> Any:
    """Count `number` weights, one every `step` from `at` on, in the counters from `slot` on; the sum of their distances."""
    table, near_table, far_table, scales, units = tables
    low, total = table[0], int64(0)
    # Four loads on their way at once: one after the other each would wait for the memory.
    while number >= 4:
        w1 = uint32(int64(bits[uint64(at)]) & mask)
        w2 = uint32(int64(bits[uint64(at + step)]) & mask)
        w3 = uint32(int64(bits[uint64(at + 2 * step)]) & mask)
        w4 = uint32(int64(bits[uint64(at + 3 * step)]) & mask)
        b1 = _bin(w1, table, near_table, far_table)
        b2 = _bin(w2, table, near_table, far_table)
        b3 = _bin(w3, table, near_table, far_table)
        b4 = _bin(w4, table, near_table, far_table)
        cuda.atomic.add(shared, uint32(slot + b1 * slots), 1)
        cuda.atomic.add(shared, uint32(slot + b2 * slots), 1)
        cuda.atomic.add(shared, uint32(slot + b3 * slots), 1)
        cuda.atomic.add(shared, uint32(slot + b4 * slots), 1)
        total += _distance(w1, b1, low, lengths, scales, units)
        total += _distance(w2, b2, low, lengths, scales, units)
        total += _distance(w3, b3, low, lengths, scales, units)
        total += _distance(w4, b4, low, lengths, scales, units)
        at += 4 * step
        number -= 4
    while number > 0:
        w1 = uint32(int64(bits[uint64(at)]) & mask)
        b1 = _bin(w1, table, near_table, far_table)
        cuda.atomic.add(shared, uint32(slot + b1 * slots), 1)
        total += _distance(w1, b1, low, lengths, scales, units)
        at += step
        number -= 1
    return total


@cuda.jit(device=True)
def _add_counts(shared: Any, counts_at: Any, width: Any, share: Any, nodes: Any, layer: Any, counts: Any) -> None:
    """Add a block's counters to the counts of its nodes: neighbouring threads take neighbouring nodes."""
    _, group_bits, _, replicas, slots, _ = share
    thread, threads = uint32(cuda.threadIdx.x), uint32(cuda.blockDim.x)
    first, layer_nodes = int64(cuda.blockIdx.x) << group_bits, layer[0]
    i = thread
    while i < width << group_bits:
        member, found = uint32(i & ((1 << group_bits) - 1)), uint32(i >> group_bits)
        count = int32(0)
        for copy in range(replicas):
            count += shared[uint32(counts_at + found * slots + member * replicas + copy)]
        if count != 0 and first + member < nodes:
            cuda.atomic.add(counts, uint64(found * layer_nodes + layer[1] + first + member), count)
        i = uint32(i + threads)


@cuda.jit(device=True)
def _add_distances(
    total: Any, shared_sums: Any, share: Any, member: Any, lane: Any, node: Any, nodes: Any, layer: Any, sums: Any
) -> None:
    """Add the sums that the lanes of a node hold to that of the node."""
    along_edges, group_bits, lane_bits, _, _, _ = share
    cuda.syncthreads()
    shared_sums[uint32(cuda.threadIdx.x)] = total
    cuda.syncthreads()
    if lane == 0 and node < nodes:
        for other in range(1, 1 << lane_bits):
            place = (member << lane_bits) + other if along_edges else (other << group_bits) + member
            total += shared_sums[uint32(place)]
        cuda.atomic.add(sums, uint64(layer[1] + node), total)


@cuda.jit(cache=True)
def count_edges(
    bits: Any,
    matrix: Any,
    share: Any,
    table: Any,
    lengths: Any,
    words: Any,
    starts: Any,
    scales: Any,
    units: Any,
    layer: Any,
    counts: Any,
    sums: Any,
) -> None:
    """Add a matrix's weights to its nodes' counts and sums of distances.

    bits: int16 or int32 [n]; matrix: (nodes, edges, node_stride, edge_stride, mask): the weight of node i and edge j is
    bits[i * node_stride + j * edge_stride], and mask takes its sign away. layer: (nodes of the layer, number of node 0 in it).
    counts: int32 [width * nodes of the layer], bin by bin; sums: int64 [nodes of the layer]; both are added to.

    table: (low, high, infinity, shift, width, bins_at, near), lengths: (how distances are summed, radius_count, mantissa_bits,
    first_exponent), words, starts, scales, units: a `FlatTable`; near: whether each block copies it to its shared memory.

    share: (along_edges, group_bits, lane_bits, replicas, slots, edges_of_block), whole numbers (`LaunchPlan`). A block of
    2**(group_bits + lane_bits) threads counts 2**group_bits nodes, edges_of_block of their edges, in shared memory: in `replicas`
    copies of a node's counts, so that lanes which count for one node seldom wait for each other; slots: counters of one bin, of
    all nodes and copies. Lanes of a warp take neighbouring nodes, each of which has a memory bank of its own, or, along_edges,
    edges of one node.
    """
    shared = cuda.shared.array(0, int32)
    shared_words = cuda.shared.array(0, int16)
    shared_scales = cuda.shared.array(0, float64)
    shared_sums = cuda.shared.array(0, int64)
    nodes, edges, node_stride, edge_stride, mask = matrix
    along_edges, group_bits, lane_bits, replicas, slots, edges_of_block = share
    width, near = table[4], table[6]

    # Shared memory: scales, then counts, then the table.
    counts_at = uint32(2 * scales.size)
    starts_at = uint32(counts_at + width * slots)
    words_at = uint32(2 * (starts_at + starts.size))
    arrays = (words, starts, scales, shared, shared_words, shared_scales)
    _prepare(share, starts_at, words_at, counts_at, width, near, arrays)

    thread, group, lanes = uint32(cuda.threadIdx.x), uint32(1 << group_bits), uint32(1 << lane_bits)
    if along_edges:
        member, lane = uint32(thread >> lane_bits), uint32(thread & (lanes - 1))
        slot = uint32(counts_at + member * replicas + (lane & (replicas - 1)))
    else:
        member, lane = uint32(thread & (group - 1)), uint32(thread >> group_bits)
        slot = uint32(counts_at + member)
    node = (int64(cuda.blockIdx.x) << group_bits) + member
    first = int64(cuda.blockIdx.y) * edges_of_block + lane
    last = min(int64(cuda.blockIdx.y + 1) * edges_of_block, edges)
    number = (last - first + lanes - 1) >> lane_bits if node < nodes and first < last else int64(0)
    tables = (table, (shared_words, words_at, shared, starts_at), (words, starts), shared_scales, units)
    at, step = node * node_stride + first * edge_stride, lanes * edge_stride
    total = _count_lane(bits, mask, at, step, number, shared, slot, slots, tables, lengths)
    cuda.syncthreads()

    _add_counts(shared, counts_at, width, share, nodes, layer, counts)
    if lengths[0] != 0:
        _add_distances(total, shared_sums, share, member, lane, node, nodes, layer, sums)


# Exponents that have counters of their own in shared memory, one for each lane: those of weights between 2**-27 and 32.
_SLOTS_FROM, _SLOTS = 100, 32
_LANES = 32

# What a stored type is to `sum_squares`.
_F32, _F16, _BF16 = 0, 1, 2


@cuda.jit(device=True)
def _as_float32(pattern: Any, kind: Any) -> Any:
    """(exponent bits, mantissa of 24 bits) of the float32 that a magnitude of a stored type is."""
    if kind == _F16:
        exponent, mantissa = uint32(pattern >> 10), uint32(pattern & 1023)
        if exponent == 31:
            return uint32(255), uint32((1024 | mantissa) << 13)
        if exponent != 0:
            return uint32(exponent + 112), uint32((1024 | mantissa) << 13)
        if mantissa == 0:
            return uint32(0), uint32(0)
        first = uint32(cuda.clz(int32(mantissa)))  # a subnormal number of float16 is none of float32
        return uint32(134 - first), uint32(mantissa << (first - 8))
    bits = uint32(pattern << 16) if kind == _BF16 else pattern
    exponent = uint32(bits >> 23)
    implied = uint32(0x800000) if exponent != 0 else uint32(0)
    return exponent, uint32(implied | (bits & uint32(0x7FFFFF)))


@cuda.jit(device=True)
def _add_part(shared: Any, slot: Any, quantity: Any, value: Any) -> None:
    """Add a number below 2**12 in size to a lane's counter of one quantity."""
    cuda.atomic.add(shared, uint32(quantity * (_SLOTS * _LANES) + slot), int32(value))


@cuda.jit(device=True)
def _add_product(shared: Any, slot: Any, quantity: Any, product: Any) -> None:
    """Add a number below 2**24 to two counters, its upper and its lower 12 bits: a counter of 32 bits holds 2**19 of those."""
    _add_part(shared, slot, quantity, product >> 12)
    _add_part(shared, slot, quantity + 1, product & 4095)


@cuda.jit(device=True)
def _add_weight(weight: Any, mask: Any, kind: Any, lane: Any, shared: Any, sums: Any) -> None:
    """Add a weight, int64, to its lane's counters, or where its exponent has none to the sums themselves."""
    exponent, mantissa = _as_float32(uint32(weight & mask), kind)
    if mantissa == 0:
        return
    high, low = uint32(mantissa >> 12), uint32(mantissa & 4095)
    place = int32(exponent) - _SLOTS_FROM
    if place >= 0 and place < _SLOTS:
        slot = uint32(place * _LANES + lane)
        _add_part(shared, slot, 0, -int32(high) if weight < 0 else int32(high))
        _add_product(shared, slot, 1, uint32(high * high))
        if kind == _F32:
            _add_part(shared, slot, 3, -int32(low) if weight < 0 else int32(low))
            _add_product(shared, slot, 4, uint32(high * low))
            _add_product(shared, slot, 6, uint32(low * low))
    else:
        entry = uint32(4 * exponent)
        cuda.atomic.add(sums, entry, -int64(mantissa) if weight < 0 else int64(mantissa))
        cuda.atomic.add(sums, uint32(entry + 1), int64(high * high))
        cuda.atomic.add(sums, uint32(entry + 2), int64(high * low))
        cuda.atomic.add(sums, uint32(entry + 3), int64(low * low))


@cuda.jit(device=True)
def _add_squares(shared: Any, quantities: Any, sums: Any) -> None:
    """Add a block's counters to the sums of their exponents."""
    thread, threads = uint32(cuda.threadIdx.x), uint32(cuda.blockDim.x)
    i = thread
    while i < quantities * _SLOTS:
        total = int64(0)
        for other in range(_LANES):  # each thread begins in a memory bank of its own
            total += shared[uint32(i * _LANES + ((other + thread) & (_LANES - 1)))]
        if total != 0:
            quantity, entry = uint32(i // _SLOTS), uint32(4 * (_SLOTS_FROM + i % _SLOTS))
            # Quantities 0 and 3 are halves of the first sum, 1 and 2, 4 and 5, 6 and 7 those of the others.
            column = 0 if quantity == 0 or quantity == 3 else (quantity + 1) // 2 if quantity < 3 else quantity // 2
            upper = quantity == 0 or quantity == 1 or quantity == 4 or quantity == 6
            cuda.atomic.add(sums, uint32(entry + column), total << 12 if upper else total)
        i = uint32(i + threads)


@cuda.jit(cache=True)
def sum_squares(bits: Any, matrix: Any, rows_of_block: Any, columns_of_block: Any, kind: Any, sums: Any) -> None:
    """Add a matrix's weights to sums by exponent, int64 [256 * 4], as of `weights.exact_sums.square_sums`.

    bits: int16 or int32 [n]; matrix: (rows, columns, row_stride, column_stride, mask): the weight of row i and column j is
    bits[i * row_stride + j * column_stride], and mask takes its sign away; kind: of float. A block, of whole warps, adds up
    rows_of_block times columns_of_block weights, at most 2**19 for each lane of a warp.
    """
    # [quantity, exponent, lane]: m's half h, two halves of h * h; then of F32 m's half l, two halves of h * l, two of l * l.
    quantities = 8 if kind == _F32 else 3
    shared = cuda.shared.array(0, int32)
    rows, columns, row_stride, column_stride, mask = matrix
    thread, threads = uint32(cuda.threadIdx.x), uint32(cuda.blockDim.x)
    lane = uint32(thread & (_LANES - 1))
    i = thread
    while i < quantities * _SLOTS * _LANES:
        shared[i] = 0
        i = uint32(i + threads)
    cuda.syncthreads()

    row = int64(cuda.blockIdx.y) * rows_of_block
    last_row = min(row + rows_of_block, rows)
    first = int64(cuda.blockIdx.x) * columns_of_block
    last = min(first + columns_of_block, columns)
    step = threads * column_stride
    while row < last_row:
        column = first + thread
        at = row * row_stride + column * column_stride
        while column + 3 * threads < last:  # four loads on their way at once
            w1 = int64(bits[uint64(at)])
            w2 = int64(bits[uint64(at + step)])
            w3 = int64(bits[uint64(at + 2 * step)])
            w4 = int64(bits[uint64(at + 3 * step)])
            _add_weight(w1, mask, kind, lane, shared, sums)
            _add_weight(w2, mask, kind, lane, shared, sums)
            _add_weight(w3, mask, kind, lane, shared, sums)
            _add_weight(w4, mask, kind, lane, shared, sums)
            column += 4 * threads
            at += 4 * step
        while column < last:
            _add_weight(int64(bits[uint64(at)]), mask, kind, lane, shared, sums)
            column += threads
            at += step
        row += 1
    cuda.syncthreads()
    _add_squares(shared, quantities, sums)
