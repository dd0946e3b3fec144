"""Blocks to train with, each of which folds into one convolution, and segment attention for long sequences."""

from refold.nn.asymmetric import AsymmetricBlock
from refold.nn.csp_resnet import CSPResNet
from refold.nn.dilated_reparam import DilatedReparamBlock
from refold.nn.diverse_branch import DiverseBranchBlock
from refold.nn.down_conv import DownConv
from refold.nn.edge_conv import EdgeConvBlock
from refold.nn.mobile_one import MobileOneBlock
from refold.nn.qa_rep_vgg import QARepVGGBlock
from refold.nn.rep_mixer import RepMixer
from refold.nn.rep_vgg import RepVGG, RepVggBlock
from refold.nn.reparam_large_kernel import ReparamLargeKernel
from refold.nn.segment_attention import SegmentAttention
from refold.nn.segment_encoder import SegmentEncoder

__all__ = [
    "AsymmetricBlock",
    "CSPResNet",
    "DilatedReparamBlock",
    "DiverseBranchBlock",
    "DownConv",
    "EdgeConvBlock",
    "MobileOneBlock",
    "QARepVGGBlock",
    "RepMixer",
    "RepVGG",
    "RepVggBlock",
    "ReparamLargeKernel",
    "SegmentAttention",
    "SegmentEncoder",
]
