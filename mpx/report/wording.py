"""The words of report.html: its heading, the verbs of perturbations, and what the columns of results.csv are called."""

from pathlib import Path

import yaml

VERBS = {"blur": "Blur", "black": "Black out", "fade": "Fade", "inpaint": "Inpaint"}  # of perturbations, by their first word
EVIDENCE = {
    "deletion": "without which each vanishes",
    "preservation": "that suffices for each",
    "dual": "without which each vanishes and which suffices alone",
}
# column -> what the page calls it, and what it says where one points at it; a part of a metric has the words of the metric
COLUMNS = {
    "value_before": ("on the photo", "of the target on the photo"),
    "value_after": ("under the mask", "of the target on the photo under the mask"),
    "value_complement": ("under the opposite mask", "of the target where the mask perturbs everything else"),
    "value_reference": ("everything perturbed", "of the target on the fully perturbed photo"),
    "value_normalised": ("normalised value", "0 at the fully perturbed photo, 1 at the photo"),
    "requested_area": ("area asked for", "the share of the photo that the mask was to take"),
    "area": ("area", "the share of the photo that is evidence"),
    "passes": ("passes", "forward and backward through the network"),
    "forwards": ("forwards", "through the network, without a backward"),
    "seconds": ("seconds", "this row's share of its batch"),
    "deletion": ("deletion curve", "mean value while pixels are removed, the most salient first; lower is better"),
    "insertion": ("insertion curve", "mean value while pixels are added, the most salient first; higher is better"),
    "cross_perturbation": ("under other perturbations", "share of the effect that the mask has under other perturbations"),
    "normalised_drop": ("normalised drop", "share of the value that the mask removes"),
    "average_drop": ("average drop", "of the value where only the saliency is kept"),
    "road": ("ROAD curve", "as deletion, with noisy linear interpolation instead of a colour"),
    "infidelity": ("infidelity", "how badly the saliency predicts small changes of the output"),
    "representativeness": ("representativeness", "effect of the thresholded mask"),
    "pointing": ("pointing", "1 where the highest saliency lies in the object's box"),
    "mass": ("mass in the box", "share of the saliency that lies in the object's box"),
    "localisation": ("localisation", "1 where the box round the saliency misses that of the object"),
    "iou": ("IoU", "overlap of the saliency with the object"),
    "minimality": ("minimal box", "the smallest box that suffices for the class"),
    "complexity": ("complexity", "of the map: how spread out it is"),
    "stability": ("stability", "agreement with the masks of other seeds"),
    "max_sensitivity": ("sensitivity", "largest change of the map under small noise"),
    "sanity": ("sanity", "agreement with the map of a randomised network or of another class"),
}


def called(name: str, quantity: str) -> tuple[str, str]:
    """Return what the page calls a column, and what it says where one points at it; quantity: what the values are."""
    known = max((word for word in COLUMNS if f"{name}_".startswith(f"{word}_")), key=len, default="")
    if not known:
        return name.replace("_", " "), name
    text, means = COLUMNS[known]
    part = name[len(known) :].replace("_", " ").strip()
    unit = f"{quantity} " if means.startswith("of the target") else ""
    return text + (f": {part}" if part else ""), f"{name}: {unit}{means}"


def heading(n: int, networks: set[str], jobs: int, game: str, learnt_with: str) -> str:
    """Return what was explained with what.

    n: rows. networks: their names. jobs: 1 for a run. game: nothing of an explainer. learnt_with: the perturbation or
    explainer; nothing of a killed run.
    """
    network = f"{len(networks)} networks" if len(networks) > 1 else next(iter(networks), "") or "a network"
    answers = f"{n} answer{'s' * (n != 1)} of {network}"
    if jobs != 1:
        return f"{answers}, explained in {jobs} ways"
    if not game:
        return f"{answers}, explained by {learnt_with or 'an explainer'}"
    found = EVIDENCE.get(game, EVIDENCE["dual"])
    return f"{answers}, and the evidence {found}" + (f" ({learnt_with})" if learnt_with else "")


def network_name(folder: Path) -> str:
    """Return the name of a run's network, as its configuration has it; nothing where there is none."""
    try:
        model = yaml.safe_load((folder / ".hydra/config.yaml").read_text("utf-8"))["model"]
        return str(model.get("name") or model.get("network") or model["_target_"].rpartition(".")[2])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return ""


def perturbation_words(learnt_with: str) -> dict[str, str]:
    """Return the beginning of "Blur 15 % of the photo", and what is added to it where there is no verb of its own."""
    verb = VERBS.get(learnt_with.partition("_")[0])
    return {"verb": verb or "Perturb", "with": f" ({learnt_with})" if learnt_with and not verb else ""}
