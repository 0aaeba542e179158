"""The loop as public baselines write it: fp32, NCHW, decoding in __getitem__, no workers."""

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.models import ResNet, resnet50
from torchvision.transforms import v2

from benchmarks.harness import BATCH, SIZE, TimedRun, Workload
from chestxray.data.dataset import MEAN, STD
from chestxray.runtime.device import pick_device
from chestxray.training.losses import FocalLoss

DEVICE = pick_device("auto")
TRAINABLE = ("layer2", "layer3", "layer4", "fc")  # in stage 1


class PlainDataset(Dataset):
    """Image files and their targets."""

    def __init__(self, work: Workload) -> None:
        self.paths, self.targets = work.paths, torch.from_numpy(work.targets).float()
        self.transform = v2.Compose(
            [
                v2.Resize((SIZE, SIZE)),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.targets[index]


def build_network(work: Workload) -> ResNet:
    return resnet50(num_classes=work.targets.shape[1]).to(DEVICE)


def training(work: Workload) -> TimedRun:
    """Train stage 1: layer2 to fc; the others have no gradient."""
    model = build_network(work)
    for name, module in model.named_children():
        module.requires_grad_(name in TRAINABLE)
    loader = DataLoader(PlainDataset(work), BATCH, shuffle=True)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-4)
    criterion = FocalLoss()

    def run() -> int:
        model.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(images.to(DEVICE)), targets.to(DEVICE))
            loss.backward()
            optimizer.step()
            loss.item()
        return len(work.paths)

    return run


def evaluation(work: Workload) -> TimedRun:
    """Score every image."""
    model = build_network(work).eval()
    loader = DataLoader(PlainDataset(work), BATCH)

    def run() -> int:
        with torch.no_grad():
            scores = [torch.sigmoid(model(images.to(DEVICE))).cpu().numpy() for images, _ in loader]
        return len(np.concatenate(scores))

    return run
