"""Other image networks of torchvision: ShuffleNetV2, MobileNetV2, InceptionV3 and ResNeXt, each as ``net`` of ours.

Every key gets the prefix "net.". The rules nevertheless list the keys of these four networks, so that the file of
another network is reported as such.
"""

from zoo.weights.converters.rules import Rule

SHUFFLENET = (
    Rule("conv{n}.{m}.*", "net.conv{n}.{m}.*"),
    Rule("stage{s}.{b}.branch{n}.*", "net.stage{s}.{b}.branch{n}.*"),
)
MOBILENET = (
    Rule("features.0.{n}.*", "net.features.0.{n}.*"),
    Rule("features.{b}.conv.*", "net.features.{b}.conv.*"),
    Rule("features.18.{n}.*", "net.features.18.{n}.*"),
    Rule("classifier.1.*", "net.classifier.1.*"),
)
INCEPTION = (
    Rule("Conv2d_*", "net.Conv2d_*"),
    Rule("Mixed_*", "net.Mixed_*"),
    Rule("AuxLogits.*", None),  # the auxiliary classifier, for training from scratch
)
RESNEXT = (
    Rule("conv1.weight", "net.conv1.weight"),
    Rule("bn1.*", "net.bn1.*"),
    Rule("layer{s}.{b}.conv{n}.weight", "net.layer{s}.{b}.conv{n}.weight"),
    Rule("layer{s}.{b}.bn{n}.*", "net.layer{s}.{b}.bn{n}.*"),
    Rule("layer{s}.{b}.downsample.{n}.*", "net.layer{s}.{b}.downsample.{n}.*"),
)

RULES = (*SHUFFLENET, *MOBILENET, *INCEPTION, *RESNEXT, Rule("fc.*", "net.fc.*"))
