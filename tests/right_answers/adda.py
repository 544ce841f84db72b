"""Right answers to lesson 05, cell by cell."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import answer
from course_lib.lessons import adda


# %% proxy_a_distance: the hint, literally
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    source_error = (source_logits <= 0).float().mean()
    target_error = (target_logits > 0).float().mean()
    epsilon = 0.5 * (source_error + target_error)
    return (2 * (1 - 2 * epsilon)).clamp(min=0)


# %% proxy_a_distance: how much more often source is said of the source
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    difference = (source_logits > 0).float().mean() - (target_logits > 0).float().mean()
    return F.relu(2 * difference)


# %% proxy_a_distance: counts
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    wrong = (source_logits <= 0).sum() / len(source_logits) + (target_logits > 0).sum() / len(target_logits)
    distance = 2 - 2 * wrong
    return torch.maximum(distance, torch.zeros_like(distance))


# %% proxy_a_distance: a weighted mean of all errors
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    errors = torch.cat([source_logits <= 0, target_logits > 0]).to(source_logits.dtype)
    weights = torch.cat(
        [
            torch.full_like(source_logits, 1 / len(source_logits)),
            torch.full_like(target_logits, 1 / len(target_logits)),
        ]
    )
    return torch.clamp_min(2 * (1 - errors @ weights), 0)


# %% proxy_a_distance: torch.heaviside
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    zero = torch.zeros((), device=source_logits.device)
    accuracy = torch.heaviside(source_logits, zero).mean() + 1 - torch.heaviside(target_logits, zero).mean()
    return (2 * (accuracy - 1)).clamp_min(0.0)


# %% copy_encoder: the hint, literally
import copy


@answer(adda.copy_encoder)
def copy_encoder(encoder):
    target = copy.deepcopy(encoder)
    target.eval()
    target.requires_grad_(True)
    return target


# %% copy_encoder: parameter by parameter
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    from copy import deepcopy

    target = deepcopy(encoder)
    for p in target.parameters():
        p.requires_grad = True
    return target.train(False)


# %% copy_encoder: through its state
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    target = copy.deepcopy(encoder).requires_grad_(True)
    target.load_state_dict(encoder.state_dict())
    for module in target.modules():
        module.training = False
    return target


# %% copy_encoder: pickled and unpickled
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import io

    file = io.BytesIO()
    torch.save(encoder, file)
    file.seek(0)
    return torch.load(file, weights_only=False).eval().requires_grad_()


# %% copy_encoder: layer by layer, where it is a Sequential
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    if isinstance(encoder, nn.Sequential):
        layers = [copy.deepcopy(layer) for layer in encoder]
        return nn.Sequential(*layers).requires_grad_(True).eval()
    return copy.deepcopy(encoder).requires_grad_(True).eval()


# %% domain_critic_loss: the hint, literally
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    s = critic(source_features.detach())
    t = critic(target_features.detach())
    return 0.5 * (F.softplus(-s).mean() + F.softplus(t).mean())


# %% domain_critic_loss: binary cross-entropy with logits
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source, target = critic(source_features.detach()), critic(target_features.detach())
    loss = F.binary_cross_entropy_with_logits(source, torch.ones_like(source))
    return (loss + F.binary_cross_entropy_with_logits(target, torch.zeros_like(target))) / 2


# %% domain_critic_loss: both domains in one call
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    logits = critic(torch.cat([source_features, target_features]).detach())
    source, target = logits.split([len(source_features), len(target_features)])
    return -0.5 * (F.logsigmoid(source).mean() + F.logsigmoid(-target).mean())


# %% domain_critic_loss: features copied without a graph
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    with torch.no_grad():
        source_features, target_features = source_features.clone(), target_features.clone()
    half = nn.BCEWithLogitsLoss()
    s, t = critic(source_features), critic(target_features)
    return 0.5 * half(s, torch.ones_like(s)) + 0.5 * half(t, torch.zeros_like(t))


# %% domain_critic_loss: the critic's loss of lesson 01
from course_lib.lessons import mutual_information


@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source, target = (critic(x.detach()) for x in (source_features, target_features))
    return mutual_information.critic_loss(source, target)


# %% inverted_label_loss: softplus
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return F.softplus(-target_logits).mean()


# %% inverted_label_loss: log sigmoid
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return -F.logsigmoid(target_logits).mean()


# %% inverted_label_loss: binary cross-entropy with ones
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return F.binary_cross_entropy_with_logits(target_logits, torch.ones_like(target_logits))


# %% inverted_label_loss: logaddexp with 0
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return torch.logaddexp(torch.zeros_like(target_logits), -target_logits).mean()


# %% inverted_label_loss: torch.distributions
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    says = torch.distributions.Bernoulli(logits=target_logits, validate_args=False)
    return -says.log_prob(torch.ones_like(target_logits)).mean()


# %% adda_step: the hint, literally
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source = source_encoder(source_x)
    target = target_encoder(target_x)

    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()

    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the target's features computed twice
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    players.critic_optimiser.zero_grad()
    with torch.no_grad():
        source, target = players.source_encoder(source_x), players.target_encoder(target_x)
    critic_loss = adda.domain_critic_loss(players.critic, source, target)
    critic_loss.backward()
    players.critic_optimiser.step()

    players.encoder_optimiser.zero_grad()
    encoder_loss = adda.inverted_label_loss(players.critic(players.target_encoder(target_x)))
    encoder_loss.backward()
    players.encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the critic frozen in the encoder's turn
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    target = target_encoder(target_x)
    loss = adda.domain_critic_loss(critic, source_encoder(source_x).detach(), target.detach())
    critic_optimiser.zero_grad()
    loss.backward()
    critic_optimiser.step()

    for p in critic.parameters():
        p.requires_grad_(False)
    fooling = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    fooling.backward()
    encoder_optimiser.step()
    for p in critic.parameters():
        p.requires_grad_(True)
    return {"critic loss": loss.detach(), "encoder loss": fooling.detach()}


# %% adda_step: backward for the encoder's parameters only, all cleared at the end
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    source, target = source_encoder(source_x), target_encoder(target_x)
    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_loss.backward()
    critic_optimiser.step()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_loss.backward(inputs=list(target_encoder.parameters()))
    encoder_optimiser.step()
    critic_optimiser.zero_grad()
    encoder_optimiser.zero_grad()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: gradients by torch.autograd.grad
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    def descend(loss, module, optimiser):
        parameters = [p for p in module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        optimiser.step()
        return loss.detach()

    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    target = target_encoder(target_x)
    source = source_encoder(source_x)
    first = descend(adda.domain_critic_loss(critic, source, target), critic, critic_optimiser)
    second = descend(adda.inverted_label_loss(critic(target)), target_encoder, encoder_optimiser)
    return {"critic loss": first, "encoder loss": second}


# %% gradient_reverse: the hint, literally
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.weight = weight
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -ctx.weight * gradient, None

    return Reverse.apply(x, weight)


# %% gradient_reverse: a class beside the function, with setup_context
class Reversal(torch.autograd.Function):
    @staticmethod
    def forward(x, weight):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.weight = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return gradient.neg() * ctx.weight, None


@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    return Reversal.apply(x, weight)


# %% gradient_reverse: forward returns x itself
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, gradient):
            return gradient * -weight

    return Reverse.apply(x)


# %% gradient_reverse: a hook on a copy
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    y = x.clone()
    if y.requires_grad:
        y.register_hook(lambda gradient: -weight * gradient)
    return y


# %% gradient_reverse: a copy without a graph, minus a term of value 0
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    return x.detach() - weight * (x - x.detach())


# %% gradient_reverse: through save_for_backward
class ReverseWithTensor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return -weight * gradient, None


@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    return ReverseWithTensor.apply(x, torch.full((), weight, device=x.device))


# %% coral_loss: the hint, literally
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    D = source_features.shape[1]
    difference = covariance(source_features) - covariance(target_features)
    return difference.square().sum() / (4 * D**2)


# %% coral_loss: torch.cov
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    difference = torch.cov(source_features.T) - torch.cov(target_features.T)
    return difference.square().sum() / (4 * source_features.shape[1] ** 2)


# %% coral_loss: second moments minus the product of the means
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        n = x.shape[0]
        total = x.sum(0, keepdim=True)
        return (x.T @ x - total.T @ total / n) / (n - 1)

    d = source_features.size(1)
    return ((covariance(source_features) - covariance(target_features)) ** 2).sum() / (4 * d * d)


# %% coral_loss: a norm, squared
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        x = (x - x.mean(dim=0, keepdim=True)) / (len(x) - 1) ** 0.5
        return torch.einsum("bi,bj->ij", x, x)

    gap = torch.linalg.matrix_norm(covariance(source_features) - covariance(target_features))
    return gap**2 / 4 / source_features.shape[1] ** 2


# %% coral_loss: a mean squared error of the covariances
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x.sub(x.mean(0))
        return torch.mm(centred.t(), centred).div(x.shape[0] - 1)

    return F.mse_loss(covariance(source_features), covariance(target_features)) / 4


# %% coral_loss: a centring matrix
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        n = len(x)
        ones = torch.ones(n, 1, device=x.device)
        return x.T @ (x - ones @ (ones.T @ x) / n) / (n - 1)

    difference = (covariance(source_features) - covariance(target_features)).flatten()
    return difference @ difference / (2 * source_features.shape[-1]) ** 2


# %% adda_step: modules' own zero_grad, losses kept in a dict
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    report = {}
    with torch.no_grad():
        source = players.source_encoder(source_x)
    target = players.target_encoder(target_x)

    loss = adda.domain_critic_loss(players.critic, source, target)
    players.critic.zero_grad()
    loss.backward()
    players.critic_optimiser.step()
    report["critic loss"] = loss.detach().clone()

    loss = adda.inverted_label_loss(players.critic(target))
    players.target_encoder.zero_grad()
    loss.backward()
    players.encoder_optimiser.step()
    report["encoder loss"] = loss.detach().clone()
    return report


# %% adda_step: both losses written out
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source, seen = source_encoder(source_x), target_encoder(target_x)
    critic_loss = 0.5 * (F.softplus(-critic(source)).mean() + F.softplus(critic(seen)).mean())
    critic_optimiser.zero_grad(set_to_none=False)
    critic_loss.backward()
    critic_optimiser.step()
    encoder_loss = F.softplus(-critic(target_encoder(target_x))).mean()
    encoder_optimiser.zero_grad(set_to_none=False)
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"encoder loss": encoder_loss.detach(), "critic loss": critic_loss.detach()}
