"""The loop as public baselines write it: fp32, NCHW, decoding in __getitem__, no workers."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet50
from torchvision.transforms import v2

from benchmarks.race import BATCH, SIZE, Lap, Track
from chestxray.data.dataset import MEAN, STD
from chestxray.models.backbones import default_backbone
from chestxray.runtime.device import pick_device
from chestxray.training.losses import FocalLoss

DEVICE = pick_device("auto")


class PlainDataset(Dataset):
    """Image files and their targets."""

    def __init__(self, paths: list[str], targets: np.ndarray) -> None:
        self.paths, self.targets = paths, torch.from_numpy(targets).float()
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


def training(track: Track) -> Lap:
    """Stage 1: layer2 to fc train, the others have no gradient."""
    model = resnet50(num_classes=track.targets.shape[1]).to(DEVICE)
    for name, module in model.named_children():
        module.requires_grad_(name in default_backbone().trained(1))
    loader = DataLoader(PlainDataset(track.paths, track.targets), BATCH, shuffle=True)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=1e-4)
    criterion: nn.Module = FocalLoss()

    def lap() -> int:
        model.train()
        for images, targets in loader:
            optimizer.zero_grad()
            loss = criterion(model(images.to(DEVICE)), targets.to(DEVICE))
            loss.backward()
            optimizer.step()
            loss.item()
        return len(track.paths)

    return lap


def evaluation(track: Track) -> Lap:
    """Scores of every image."""
    model = resnet50(num_classes=track.targets.shape[1]).to(DEVICE).eval()
    loader = DataLoader(PlainDataset(track.paths, track.targets), BATCH)

    def lap() -> int:
        with torch.no_grad():
            scores = [torch.sigmoid(model(images.to(DEVICE))).cpu().numpy() for images, _ in loader]
        return len(np.concatenate(scores))

    return lap
