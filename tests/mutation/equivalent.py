"""Mutants of the default sample that no test can kill, each with the reason: they are the same program, or as good as.

Names are without the path, as in `Mutant.key`. They still count as survivors in the first percentage that is printed; the
second leaves them out. A mutant belongs here only where no input makes a difference that anyone could rely on.
"""

_EQUAL_VALUES = "where the two are equal, either is the same number"
_PLACEHOLDER = "a placeholder that is always overwritten or masked before it is used"

EQUIVALENT = {
    "_multiply::ReplaceComparisonOperator_Lt_LtE::0::row[j] = a if a < row[j] else row[j]": _EQUAL_VALUES,
    "_multiply::ReplaceComparisonOperator_Lt_LtE::1::a = a if a < b else b": _EQUAL_VALUES,
    "_multiply::ReplaceComparisonOperator_Lt_LtE::0::if first[i, t] < np.inf:": (
        "saves work where there is no path: infinity and a length are never the shorter"
    ),
    "Band::RemoveDecorator::1::@property": "a bound method tells bands apart as well as what it returns",
    "column_histogram::ReplaceBinaryOperator_FloorDiv_Add::0::step = max(_CACHED // max(bits.shape[1], 1), 1)": (
        "how many rows are counted at a time; their order changes no count"
    ),
    "__init__::ReplaceBinaryOperator_Mul_Pow::0::index = np.int32 if max(plan.samples * plan.nodes, total) < 2**31 else "
    "np.int64": "scipy takes the smaller type of index itself where it does",
    "_lognormal::ReplaceBinaryOperator_Pow_Div::0::for first in ([float(log.mean()), math.log(spread)], [start - steepness "
    "* wide**2, math.log(wide)])": "where a search starts; it ends in the same maximum",
    "_edge_histogram::ReplaceComparisonOperator_NotEq_Gt::0::counted = bins != UNCOUNTED": (
        "UNCOUNTED is below every bin"
    ),
    "bin_table::ReplaceBinaryOperator_Sub_Div::0::shift = bits - 1 - _PREFIX_BITS[dtype]": (
        "one bit less leads to an earlier run, and the loop goes on from there: results are the same, later"
    ),
    "_run_starts::ReplaceBinaryOperator_Sub_Pow::0::wanted_bins = np.arange(most - 1, least - 1, -1)": (
        "one run more is sought, which cuts the first in two: both have its bin"
    ),
    "min_plus_estimate::NumberReplacer::0::at_once = max(_DRAWN_AT_ONCE // (checks * budget), 1)": (
        "how many rows are drawn at a time; the numbers are drawn in the same order"
    ),
    'module::NumberReplacer::3::_PREFIX_BITS = {"F32": 8 + 8, "F64": 11 + 8}': (
        "fewer bits lead to an earlier run, and the loop goes on from there: results are the same, later"
    ),
    "_run_starts::NumberReplacer::1::reached = np.full(wanted_bins.size, beyond - 1, dtype=unsigned)  # bin <= wanted_bins": (
        "where the bisection starts from above, one pattern further; it ends at the same"
    ),
    "_lognormal::NumberReplacer::1::spread = max(float(log.std()), 1e-6)": (
        "a bound for a tail of equal values, which has no fit; others spread more"
    ),
    "reads::NumberReplacer::0::read = _Read(layer, self._matrices[name], through, np.zeros(0, np.int64))": _PLACEHOLDER,
    "_binned_rows::NumberReplacer::0::return indptr, np.where(counted, np.rint(np.where(counted, flat, 0.0)), UNCOUNTED)"
    ".astype(np.int16)": _PLACEHOLDER,
    "_dense::NumberReplacer::0::place = np.full(network.nodes, -1)": _PLACEHOLDER,
    "_edges::NumberReplacer::0::return count, np.array(pairs, dtype=np.int64).reshape(-1, 2), lengths": (
        "numpy takes every negative size for the one that is left over"
    ),
    "bin_probabilities::ReplaceComparisonOperator_Eq_Lt::0::below = erf(scaled) if taps == 1 else gammainc(taps / 2, "
    "scaled**2)": "the function of one tap is a case of the other's, by another routine",
    "__init__::NumberReplacer::2::index = np.int32 if max(plan.samples * plan.nodes, total) < 2**31 else np.int64": (
        "MAX_EDGES refuses a network long before it has 2**31 edges"
    ),
    "_draw::ReplaceComparisonOperator_GtE_Gt::0::if place - cell >= threshold[cell]:": (
        "a draw of 53 random bits equals the threshold once in 2**53, and neither choice is more right"
    ),
    "growth_curves::NumberReplacer::1::if total.nodes == 0 or total.seen.sum() < 2:": (
        "where no node counts no radius is seen, and the second half is true"
    ),
    "as_reader::ReplaceComparisonOperator_Eq_LtE::0::if self.weights.shape[2] == 1:": "a block has one tap at least",
    "row_histogram::ReplaceBinaryOperator_FloorDiv_Mul::0::step = max(_CACHED // max(bits.shape[1], 1), 1)": (
        "how many nodes are counted at a time; each has counts of its own"
    ),
    "_alpha0_and_width::ReplaceComparisonOperator_GtE_Gt::0::peak = (f >= f.max(axis=1, keepdims=True) - 1e-11 * "
    "np.maximum(np.abs(f).max(axis=1, keepdims=True), 1.0)).argmax(": (
        "the bound lies thousands of roundings below the maximum; an f that equals it to the last bit may be taken or not"
    ),
    "_half_normals::ReplaceComparisonOperator_Lt_LtE::0::drawn[i] = share * edges[layer] if share < ratios[layer] else "
    "_rejected(state, again[0], edges)": (
        "a draw of 53 random bits equals the ratio once in 2**53, and neither choice is more right"
    ),
    "_lognormal::ReplaceBinaryOperator_Mul_Add::0::for first in ([float(log.mean()), math.log(spread)], [start - steepness "
    "* wide**2, math.log(wide)])": "where a search starts; it ends in the same maximum",
    "_unit::ReplaceBinaryOperator_FloorDiv_Mul::0::edges = targets * matrix.size[1] * matrix.taps // matrix.layout.groups": (
        "no family with a gauge has a grouped convolution, and `rescaled` cannot read one"
    ),
    "sweeps_for::ReplaceComparisonOperator_Gt_GtE::0::while sweeps < MAX_SWEEPS and (shares * np.exp(-rates * sweeps)).sum() "
    "> _LEFT:": "a sum of exponentials is 0.01 to the last bit for no matrix, and eight trades more do no harm",
    "__init__::ReplaceBinaryOperator_Mul_Div::0::self._index = np.int32 if max(plan.samples * plan.nodes, total) < 2**31 else "
    "np.int64": "MAX_EDGES refuses a network long before it has 2**31 nodes or edges",
    "_groups::ReplaceComparisonOperator_Eq_Lt::0::if groups == 1:": (
        "a short cut: of one group the general way gives all nodes and all rows, too"
    ),
    "whole_path_histograms::AddNot::0::if threads == 1:": (
        "whether one thread or several count: each task has rows of its own"
    ),
    "count_piece::NumberReplacer::1::if workers == 1:": "one worker then counts in a pool of one thread",
    "_smallest::ReplaceComparisonOperator_Gt_GtE::0::if size > _ITERATED:": (
        "of just so many values the iteration finds what the decomposition finds, but for the last digits"
    ),
    "statistics_of::ReplaceComparisonOperator_Lt_NotEq::1::kurtosis=fourth / n / square if spread and 0 < square < math.inf "
    "else math.nan,": "a number above 0 is below infinity exactly where it is not infinity",
}
