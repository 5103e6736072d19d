"""What torch's operators, functions and modules do that no schema declares.

Every table was filled by running the operators of torch 2.13 and comparing storages
and contents before and after.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import nn

Names = frozenset[str]


def _names(text: str) -> Names:
    return frozenset(text.split())


RUNNING_STATISTICS: Final = ("running_mean", "running_var")
"""Operands that a normalization writes while it trains."""

SWITCHES: Final[Names] = frozenset(
    {"train", "training", "use_input_stats", "dropout", "dropout_p"}
)
"""Parameters whose literal `False` or 0 turns off randomness and statistics."""

UNDECLARED_WRITES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "batch_norm": RUNNING_STATISTICS,
        "instance_norm": RUNNING_STATISTICS,
        "native_batch_norm": RUNNING_STATISTICS,
        "_batch_norm_impl_index": RUNNING_STATISTICS,
        "cudnn_batch_norm": RUNNING_STATISTICS,
        "miopen_batch_norm": RUNNING_STATISTICS,
        "batch_norm_update_stats": RUNNING_STATISTICS,
        "batch_norm_gather_stats": RUNNING_STATISTICS,
        "batch_norm_gather_stats_with_counts": RUNNING_STATISTICS,
        # A scalar tensor is centred in place.
        "cov": ("self",),
        "_no_grad_embedding_renorm_": ("weight",),
        "_saturate_weight_to_fp16": ("weight",),
    }
)
"""Operators whose schema says "not mutable", and the operands they write."""

UNDECLARED_ALIASES: Final[Names] = _names(
    # Return their operand when there is nothing to do.
    "_to_cpu chain_matmul conj_physical cumprod_backward data dequantize device_put "
    "sum_to_size to_dense to_dense_backward to_mkldnn_backward to_sparse type_as "
    "_cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long "
    "_cast_Short _saturate_weight_to_fp16 _no_grad_embedding_renorm_ "
    "dropout alpha_dropout feature_dropout feature_alpha_dropout "
    "atleast_1d atleast_2d atleast_3d cartesian_prod einsum "
    # Return views.
    "_unsafe_view broadcast_tensors flatten_dense_tensors meshgrid "
    "unflatten_dense_tensors unsafe_chunk unsafe_split unsafe_split_with_sizes "
    # Return objects that hold their operands.
    "_nested_compute_contiguous_strides_offsets _pack_sequence histogramdd lift "
    "_sparse_bsc_tensor_unsafe _sparse_bsr_tensor_unsafe "
    "_sparse_compressed_tensor_unsafe _sparse_coo_tensor_unsafe "
    "_sparse_csc_tensor_unsafe _sparse_csr_tensor_unsafe "
    "sparse_bsc_tensor sparse_bsr_tensor "
    "sparse_compressed_tensor sparse_coo_tensor sparse_csc_tensor sparse_csr_tensor "
    # Redirect their operand to another's storage.
    "set set_ "
    "_add_batch_dim _remove_batch_dim _foobar _test_optional_filled_intlist "
    "_test_optional_floatlist _test_optional_intlist _test_parallel_materialize "
    "_test_string_default"
)
"""Operators whose result may share an operand's storage without saying so."""

IN_PLACE_OPERATORS: Final = (
    operator.iadd,
    operator.iand,
    operator.ifloordiv,
    operator.ilshift,
    operator.imatmul,
    operator.imod,
    operator.imul,
    operator.ior,
    operator.ipow,
    operator.irshift,
    operator.isub,
    operator.itruediv,
    operator.ixor,
)

PURE_CALLABLES: Final[tuple[Callable[..., Any], ...]] = (
    *(getattr(operator, name) for name in _names(
        "abs and_ contains countOf eq floordiv ge gt index indexOf inv invert is_ "
        "is_not le length_hint lshift lt matmul mod mul ne neg not_ or_ pow rshift "
        "sub truediv truth xor"
    )),
    *(f for name, f in vars(math).items() if callable(f) and name[0] != "_"),
    *(f for name, f in vars(torch).items() if name.startswith(("sym_", "_sym_"))
      and name not in ("sym_constrain_range", "sym_constrain_range_for_size")),
    torch.tensor, torch.is_tensor, torch.broadcast_shapes, torch._assert,
    abs, bool, float, int, isinstance, len, round,
)  # fmt: skip
"""Callables without a schema that neither write nor alias an operand."""

GATHERING_CALLABLES: Final[tuple[Callable[..., Any], ...]] = (
    operator.concat,
    operator.iconcat,
    torch.as_tensor,
    max,
    min,
)
"""Callables whose result may be, or hold, any of the operands."""

METADATA_ATTRIBUTES: Final[Names] = _names(
    "device dtype is_cpu is_cuda is_leaf is_meta is_nested is_quantized is_sparse "
    "itemsize layout names nbytes ndim requires_grad shape"
)
"""Attributes of a tensor that hold no tensor."""

PURE_METHODS: Final[Names] = _names(
    "const_data_ptr data_ptr dim_order element_size is_shared ndimension nelement new "
    "new_tensor tolist unique"
)
ALIASING_METHODS: Final[Names] = _names(
    "as_subclass bfloat16 bool byte cdouble cfloat char cpu cuda double float half int "
    "ipu long mtia numpy short storage to_sparse_coo type untyped_storage xpu"
)
"""Methods of a tensor that are no operator; an aliasing one may return its operand."""

PURE_FUNCTIONALS: Final[Names] = _names(
    "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool1d_with_indices adaptive_max_pool2d "
    "adaptive_max_pool2d_with_indices adaptive_max_pool3d "
    "adaptive_max_pool3d_with_indices affine_grid batch_norm binary_cross_entropy "
    "binary_cross_entropy_with_logits celu cosine_embedding_loss cross_entropy "
    "ctc_loss elu embedding embedding_bag fold gaussian_nll_loss glu grid_sample "
    "group_norm hardsigmoid hardswish hardtanh hinge_embedding_loss huber_loss "
    "instance_norm interpolate kl_div l1_loss layer_norm leaky_relu "
    "local_response_norm log_softmax lp_pool1d lp_pool2d lp_pool3d "
    "margin_ranking_loss max_pool1d max_pool1d_with_indices max_pool2d "
    "max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool1d "
    "max_unpool2d max_unpool3d mish mse_loss multi_margin_loss "
    "multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize pad "
    "poisson_nll_loss relu relu6 rms_norm selu sigmoid silu smooth_l1_loss "
    "soft_margin_loss softmax softmin softsign tanh tanhshrink threshold "
    "triplet_margin_loss unfold upsample upsample_bilinear upsample_nearest "
    "block_diag cdist norm stft tensordot unique unique_consecutive "
    "unravel_index"
)
"""Python functions of torch that change nothing, save what their parameters say."""

RANDOM_FUNCTIONALS: Final[Names] = _names(
    "alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout "
    "fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d "
    "fractional_max_pool3d_with_indices gumbel_softmax multi_head_attention_forward "
    "rrelu"
)
ALIASING_FUNCTIONALS: Final[Names] = _names(
    "alpha_dropout atleast_1d atleast_2d atleast_3d broadcast_tensors cartesian_prod "
    "chain_matmul dropout dropout1d dropout2d dropout3d einsum feature_alpha_dropout "
    "meshgrid split"
)

MEMORYLESS_MODULES: Final = frozenset(
    getattr(nn, name)
    for name in _names(
        "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d "
        "AdaptiveMaxPool2d AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d BCELoss "
        "BCEWithLogitsLoss Bilinear CELU CTCLoss ChannelShuffle CircularPad1d "
        "CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Conv1d "
        "Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d "
        "CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss ELU Embedding "
        "EmbeddingBag Fold GELU GLU GRUCell GaussianNLLLoss GroupNorm Hardshrink "
        "Hardsigmoid Hardswish Hardtanh HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss "
        "LPPool1d LPPool2d LPPool3d LSTMCell LayerNorm LeakyReLU Linear "
        "LocalResponseNorm LogSigmoid LogSoftmax MSELoss MarginRankingLoss MaxPool1d "
        "MaxPool2d MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d Mish "
        "MultiLabelMarginLoss MultiLabelSoftMarginLoss MultiMarginLoss NLLLoss PReLU "
        "PairwiseDistance PixelShuffle PixelUnshuffle PoissonNLLLoss RMSNorm RNNCell "
        "ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d "
        "ReplicationPad2d ReplicationPad3d SELU SiLU Sigmoid SmoothL1Loss "
        "SoftMarginLoss Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh "
        "Tanhshrink Threshold TripletMarginLoss Unfold Upsample UpsamplingBilinear2d "
        "UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d"
    )
)
"""Modules that only read their parameters, unless `inplace` or `max_norm` is set."""

WATCHING_OBSERVERS: Final[Names] = _names(
    "HistogramObserver MinMaxObserver MovingAverageMinMaxObserver "
    "MovingAveragePerChannelMinMaxObserver NoopObserver PerChannelMinMaxObserver "
    "PlaceholderObserver ReuseInputObserver"
)
"""Observers of torch.ao that return their operand and write their own state only."""

FAKE_QUANTIZERS: Final[Names] = _names("FakeQuantize FusedMovingAvgObsFakeQuantize")
"""Modules of torch.ao that round their operand and write their own state only."""

EQUALIZATION_OBSERVERS: Final[Names] = _names(
    "_InputEqualizationObserver _WeightEqualizationObserver"
)
"""As observers, for torch.ao's equalization."""

CHANNEL_OBSERVERS: Final[Names] = _names(
    "InputEqualizationObserver WeightEqualizationObserver"
)
"""As observers, for ours."""

FUSED_SEQUENCES: Final[Names] = _names(
    "BNReLU2d BNReLU3d ConvReLU1d ConvReLU2d ConvReLU3d LinearReLU"
)
"""Sequences of torch.ao that are called as one module."""

NORMALIZATIONS: Final = frozenset(
    {
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
    }
)
DROPOUTS: Final = frozenset(
    {
        nn.AlphaDropout,
        nn.Dropout,
        nn.Dropout1d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.FeatureAlphaDropout,
        nn.RReLU,
    }
)
DROPOUT_CARRIERS: Final = frozenset({nn.GRU, nn.LSTM, nn.MultiheadAttention, nn.RNN})
"""Modules with a `dropout` probability that counts while they train."""

FORWARDING_MODULES: Final = frozenset({nn.Flatten, nn.Identity, nn.Unflatten})
"""Modules that return their operand or a view of it."""

SAMPLING_MODULES: Final = frozenset({nn.FractionalMaxPool2d, nn.FractionalMaxPool3d})
"""Modules that draw random numbers in training and evaluation alike."""
