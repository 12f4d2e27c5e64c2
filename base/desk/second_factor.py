"""The second factor: TOTP, as authenticator apps on phones compute it (django-otp)."""

from typing import Any, Final

import segno
from django.contrib.auth.models import User
from django.db import transaction
from django_otp import login as otp_login
from django_otp.plugins.otp_totp.models import TOTPDevice

from base.clock import ServiceNow
from base.desk.journal import note_and_tell
from base.desk.rights import both_until
from base.models import DeskAccount

SETTING_UP: Final = "desk_setting_up"  # in the session: its device's key


def device_of(user: Any) -> TOTPDevice | None:
    """The device that was set up; None where none was."""
    device: TOTPDevice | None = TOTPDevice.objects.filter(user=user, confirmed=True).order_by("pk").first()
    return device


def is_code(user: Any, given: str) -> bool:
    """Whether it is the code of this half minute, which counts once; wrong ones are throttled."""
    with transaction.atomic():
        device = TOTPDevice.objects.select_for_update().filter(user=user, confirmed=True).order_by("pk").first()
        return device is not None and bool(device.verify_is_allowed()[0]) and bool(device.verify_token(given.replace(" ", "")))


def new_device(request: Any) -> TOTPDevice:
    """The device that this session sets up: the same until its first code was given. Another
    session's goes: whoever made the account knows its first password, and a secret that he saw
    before its owner would be both factors in his hand.
    """
    pending = TOTPDevice.objects.filter(user=request.user, confirmed=False)
    found: TOTPDevice | None = pending.filter(pk=request.session.get(SETTING_UP)).first()
    if found is None:
        with transaction.atomic():
            pending.delete()
            found = TOTPDevice.objects.create(user=request.user, confirmed=False, name="phone")
        request.session[SETTING_UP] = found.pk
    return found


def picture(device: TOTPDevice) -> str:
    """The device's secret as a QR code, for the page alone: an SVG in a data address."""
    return str(segno.make(device.config_url).svg_data_uri(scale=5, dark="#000", light="#fff"))


def confirm(request: Any, given: str) -> bool:
    """Signs in by the first code of a new device. Credentials count as new: whoever had guessed a
    password and sets up a device of his own can't approve today.
    """
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=request.user.pk)  # one session at a time
        pending = TOTPDevice.objects.filter(user=request.user, confirmed=False)
        device = pending.filter(pk=request.session.get(SETTING_UP)).first()
        if device is None or device_of(request.user) is not None:
            return False
        if not device.verify_is_allowed()[0] or not device.verify_token(given.replace(" ", "")):
            return False
        device.confirmed = True
        device.save()
        pending.delete()
        if both_until(request.user.pk) is None:  # of who approved before roles existed, approvals wait that mustn't be stranded
            DeskAccount.objects.filter(user_id=request.user.pk).update(credentials_at=ServiceNow())
        note_and_tell("second_factor_set", "a second factor was set up", user=request.user.get_username())
    otp_login(request, device)
    return True


def verify(request: Any, given: str) -> bool:
    """Signs in by a code of the device that was set up."""
    device = device_of(request.user)
    if device is None or not is_code(request.user, given):
        return False
    otp_login(request, device)
    return True


def remove(user: Any) -> int:
    """Forgets a user's devices, when a phone was lost. Returns how many there were."""
    with transaction.atomic():
        count = int(TOTPDevice.objects.filter(user=user).count())
        TOTPDevice.objects.filter(user=user).delete()
        DeskAccount.objects.filter(user_id=user.pk).update(credentials_at=ServiceNow())
        note_and_tell("second_factor_removed", "a second factor was removed on the host", user=user.get_username())
    return count
