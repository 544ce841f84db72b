"""Wrong answers to lesson 05, cell by cell, beyond the mistakes that the solutions name."""

# %% the notebook's first cell
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import answer
from course_lib.lessons import adda


# %% proxy_a_distance: a source logit of 0 counts as right
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    error = 0.5 * ((source_logits < 0).float().mean() + (target_logits > 0).float().mean())
    return (2 * (1 - 2 * error)).clamp(min=0)


# %% proxy_a_distance: a target logit of 0 counts as wrong
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    error = 0.5 * ((source_logits <= 0).float().mean() + (target_logits >= 0).float().mean())
    return (2 * (1 - 2 * error)).clamp(min=0)


# %% proxy_a_distance: a distance of less than 0 turned round
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    error = 0.5 * ((source_logits <= 0).float().mean() + (target_logits > 0).float().mean())
    return (2 * (1 - 2 * error)).abs()


# %% proxy_a_distance: at most 1
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    error = 0.5 * ((source_logits <= 0).float().mean() + (target_logits > 0).float().mean())
    return (2 * (1 - 2 * error)).clamp(0, 1)


# %% proxy_a_distance: rates added, not averaged
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    error = (source_logits <= 0).float().mean() + (target_logits > 0).float().mean()
    return (2 * (1 - 2 * error)).clamp(min=0)


# %% proxy_a_distance: Python's max
# says: host
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    error = 0.5 * ((source_logits <= 0).float().mean() + (target_logits > 0).float().mean())
    return max(2 * (1 - 2 * error), torch.zeros_like(error))


# %% proxy_a_distance: signs averaged without a mean of rates
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    signs = torch.cat([source_logits.sign(), -target_logits.sign()])
    return (2 * signs.mean()).clamp(min=0)


# %% proxy_a_distance: twice the accuracy
@answer(adda.proxy_a_distance)
def proxy_a_distance(source_logits, target_logits):
    accuracy = 0.5 * ((source_logits > 0).float().mean() + (target_logits <= 0).float().mean())
    return 2 * accuracy


# %% copy_encoder: copy.copy shares the weights
# says: copy\.copy|shallow|deepcopy
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    return copy.copy(encoder).eval().requires_grad_(True)


# %% copy_encoder: the encoder itself
# says: same encoder|no copy|second name
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    return encoder


# %% copy_encoder: deepcopy alone
# says: eval|mode
# says: requires_grad|frozen|train
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    return copy.deepcopy(encoder)


# %% copy_encoder: the parameters alone, into a new network
# says: buffer|running
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    new = copy.deepcopy(encoder)
    for module in new.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    with torch.no_grad():
        for a, b in zip(new.parameters(), encoder.parameters(), strict=True):
            a.copy_(b)
    return new.eval().requires_grad_(True)


# %% copy_encoder: weights drawn anew
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    new = copy.deepcopy(encoder)
    for module in new.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()
    return new.eval().requires_grad_(True)


# %% copy_encoder: both are switched to eval mode
# says: source
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    new = copy.deepcopy(encoder).requires_grad_(True)
    encoder.eval()
    return new.eval()


# %% copy_encoder: only the outermost module in eval mode
# says: eval|mode
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    new = copy.deepcopy(encoder).requires_grad_(True)
    new.training = False
    return new


# %% copy_encoder: the state, not a module
# says: module|Module|type
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    return copy.deepcopy(encoder.state_dict())


# %% copy_encoder: only the weights can be trained, not the offsets
@answer(adda.copy_encoder)
def copy_encoder(encoder):
    import copy

    new = copy.deepcopy(encoder).eval()
    for module in new.modules():
        if isinstance(module, nn.Linear):
            module.requires_grad_(True)
    return new


# %% domain_critic_loss: only the source is detached
# says: detach
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source, target = critic(source_features.detach()), critic(target_features)
    return 0.5 * (F.softplus(-source).mean() + F.softplus(target).mean())


# %% domain_critic_loss: everything under no_grad
# says: critic|no_grad|gradient
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    with torch.no_grad():
        source, target = critic(source_features), critic(target_features)
    return 0.5 * (F.softplus(-source).mean() + F.softplus(target).mean())


# %% domain_critic_loss: clamped probabilities
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source = critic(source_features.detach()).sigmoid().clamp(1e-6, 1 - 1e-6)
    target = critic(target_features.detach()).sigmoid().clamp(1e-6, 1 - 1e-6)
    return -0.5 * (source.log().mean() + (1 - target).log().mean())


# %% domain_critic_loss: summed over the batch
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source, target = critic(source_features.detach()), critic(target_features.detach())
    return 0.5 * (F.softplus(-source).sum() + F.softplus(target).sum())


# %% domain_critic_loss: a critic of the mean features
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source = critic(source_features.detach().mean(0, keepdim=True))
    target = critic(target_features.detach().mean(0, keepdim=True))
    return 0.5 * (F.softplus(-source).mean() + F.softplus(target).mean())


# %% domain_critic_loss: the difference of the scores (Wasserstein)
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    return critic(target_features.detach()).mean() - critic(source_features.detach()).mean()


# %% domain_critic_loss: the features' graph is cut in place
# says: .
@answer(adda.domain_critic_loss)
def domain_critic_loss(critic, source_features, target_features):
    source_features.mul_(1.0)
    source, target = critic(source_features.detach()), critic(target_features.detach())
    return 0.5 * (F.softplus(-source).mean() + F.softplus(target).mean())


# %% inverted_label_loss: clamped probabilities
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return -target_logits.sigmoid().clamp(1e-6, 1 - 1e-6).log().mean()


# %% inverted_label_loss: half of it
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return 0.5 * F.softplus(-target_logits).mean()


# %% inverted_label_loss: towards one half
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return F.binary_cross_entropy_with_logits(target_logits, torch.full_like(target_logits, 0.5))


# %% inverted_label_loss: the mean logit, turned
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return -target_logits.mean()


# %% inverted_label_loss: one minus the probability
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return (1 - target_logits.sigmoid()).mean()


# %% inverted_label_loss: the logarithm of the mean probability
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return -target_logits.sigmoid().mean().log()


# %% inverted_label_loss: one loss for each image
# says: scalar
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return F.softplus(-target_logits)


# %% inverted_label_loss: the value right, the gradient turned
# says: gradient
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    loss = F.softplus(-target_logits).mean()
    return 2 * loss.detach() - loss


# %% inverted_label_loss: relu and log1p, without a gradient at logit 0
# says: gradient
@answer(adda.inverted_label_loss)
def inverted_label_loss(target_logits):
    return ((-target_logits).relu() + (-target_logits.abs()).exp().log1p()).mean()


# %% adda_step: the reports are not detached
# says: detach
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
    return {"critic loss": critic_loss, "encoder loss": encoder_loss}


# %% adda_step: the target encoder did not move
# says: target encoder did not move|target encoder.*(not|never)
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source, target = source_encoder(source_x), target_encoder(target_x)
    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the target's features detached
# says: target encoder
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    source, target = source_encoder(source_x).detach(), target_encoder(target_x).detach()
    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the encoder's optimiser never steps
# says: target encoder
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
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the critic's optimiser never steps
# says: critic
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source = source_encoder(source_x)
    target = target_encoder(target_x)
    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the encoder plays against the old critic
# says: updated critic|old critic|before
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source = source_encoder(source_x)
    target = target_encoder(target_x)
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the report's entries exchanged
# says: exchanged|swapped|report|entries
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
    return {"critic loss": encoder_loss.detach(), "encoder loss": critic_loss.detach()}


# %% adda_step: a tuple returned
# says: critic loss
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
    return critic_loss.detach(), encoder_loss.detach()


# %% adda_step: all modules set to training mode
# says: train|mode
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    source_encoder.train()
    target_encoder.train()
    critic.train()
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


# %% adda_step: modes changed and never put back
# says: mode
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
    critic.eval()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% gradient_reverse: a hook on the argument itself
# says: argument|x itself|in place|hook
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    if x.requires_grad:
        x.register_hook(lambda gradient: -weight * gradient)
    return x.view_as(x)


# %% gradient_reverse: the gradient changed in place
# says: in place
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient.mul_(-weight)

    return Reverse.apply(x)


# %% gradient_reverse: the argument itself, marked dirty
# says: in.place
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x

        @staticmethod
        def backward(ctx, gradient):
            return -weight * gradient

    return Reverse.apply(x)


# %% gradient_reverse: the forward pass scaled, too
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * weight

        @staticmethod
        def backward(ctx, gradient):
            return -weight * gradient

    return Reverse.apply(x)


# %% gradient_reverse: divided by the weight
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -gradient / weight

    return Reverse.apply(x)


# %% gradient_reverse: minus the weight, added
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient - weight

    return Reverse.apply(x)


# %% gradient_reverse: gradients clipped to the weight
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -gradient.clamp(-weight, weight)

    return Reverse.apply(x)


# %% gradient_reverse: backward without the second value
# says: backward|gradients
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.weight = weight
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -ctx.weight * gradient

    return Reverse.apply(x, weight)


# %% gradient_reverse: x returned as it is
# says: unchanged|gradient
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    return x


# %% coral_loss: one covariance of both domains
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    mean = torch.cat([source_features, target_features]).mean(0)
    s, t = source_features - mean, target_features - mean
    difference = s.T @ s / (len(s) - 1) - t.T @ t / (len(t) - 1)
    return difference.square().sum() / (4 * s.shape[1] ** 2)


# %% coral_loss: an outer product for each example
# says: memory
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return (centred[:, :, None] * centred[:, None, :]).sum(0) / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features)
    return difference.square().sum() / (4 * source_features.shape[1] ** 2)


# %% coral_loss: features and examples exchanged
# says: raised|size|value
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(1, keepdim=True)
        return centred.T @ centred / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features)
    return difference.square().sum() / (4 * source_features.shape[1] ** 2)


# %% coral_loss: the mean of squares
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    return F.mse_loss(covariance(source_features), covariance(target_features))


# %% coral_loss: divided by 4 D
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features)
    return difference.square().sum() / (4 * source_features.shape[1])


# %% coral_loss: absolute differences
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features)
    return difference.abs().sum() / (4 * source_features.shape[1] ** 2)


# %% coral_loss: the means compared, too
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features)
    means = (source_features.mean(0) - target_features.mean(0)).square().sum()
    return difference.square().sum() / (4 * source_features.shape[1] ** 2) + means


# %% coral_loss: the target detached
# says: gradient
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features).detach()
    return difference.square().sum() / (4 * source_features.shape[1] ** 2)


# %% coral_loss: the source's size for both
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    s, t = source_features - source_features.mean(0), target_features - target_features.mean(0)
    difference = (s.T @ s - t.T @ t) / (len(s) - 1)
    return difference.square().sum() / (4 * s.shape[1] ** 2)


# %% coral_loss: spectral norm
# says: host|value
@answer(adda.coral_loss)
def coral_loss(source_features, target_features):
    def covariance(x):
        centred = x - x.mean(0)
        return centred.T @ centred / (len(x) - 1)

    difference = covariance(source_features) - covariance(target_features)
    return torch.linalg.matrix_norm(difference, 2) ** 2 / (4 * source_features.shape[1] ** 2)


# %% adda_step: the source encoder updated, too
# says: source
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    source, target = source_encoder(source_x), target_encoder(target_x)
    critic_loss = 0.5 * (F.softplus(-critic(source)).mean() + F.softplus(critic(target.detach())).mean())
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% adda_step: the two batches exchanged
@answer(adda.adda_step)
def adda_step(players, source_x, target_x):
    source_encoder, target_encoder, critic, encoder_optimiser, critic_optimiser = players
    with torch.no_grad():
        source = source_encoder(target_x)
    target = target_encoder(source_x)
    critic_loss = adda.domain_critic_loss(critic, source, target)
    critic_optimiser.zero_grad()
    critic_loss.backward()
    critic_optimiser.step()
    encoder_loss = adda.inverted_label_loss(critic(target))
    encoder_optimiser.zero_grad()
    encoder_loss.backward()
    encoder_optimiser.step()
    return {"critic loss": critic_loss.detach(), "encoder loss": encoder_loss.detach()}


# %% gradient_reverse: weight squared
@answer(adda.gradient_reverse)
def gradient_reverse(x, weight):
    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -(weight**2) * gradient

    return Reverse.apply(x)
