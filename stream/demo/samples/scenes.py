"""Simple pictures without text. Each function draws one, always the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import cos, pi, sin
from typing import TypeAlias

from PIL import Image, ImageDraw

Colour: TypeAlias = tuple[int, int, int]
Scene: TypeAlias = Callable[[], Image.Image]

SIZE = (480, 320)
WIDTH, HEIGHT = SIZE


def sunset() -> Image.Image:
    image = _gradient((40, 40, 110), (255, 150, 70))
    draw = ImageDraw.Draw(image)
    draw.ellipse((190, 140, 290, 240), (255, 225, 130))
    draw.rectangle((0, 215, WIDTH, HEIGHT), (30, 40, 80))
    for step in range(8):
        draw.line((200 + step * 4, 225 + step * 11, 280 - step * 4, 225 + step * 11), (255, 190, 110), 3)
    return image


def mountains() -> Image.Image:
    image = _gradient((150, 195, 235), (225, 240, 250))
    draw = ImageDraw.Draw(image)
    draw.polygon(((-20, 320), (130, 90), (290, 320)), (95, 110, 130))
    draw.polygon(((100, 136), (130, 90), (162, 136), (130, 150)), (245, 248, 252))
    draw.polygon(((170, 320), (340, 60), (520, 320)), (75, 90, 112))
    draw.polygon(((306, 112), (340, 60), (376, 112), (340, 126)), (245, 248, 252))
    for x in range(10, WIDTH, 46):
        draw.polygon(((x, 318), (x + 16, 250), (x + 32, 318)), (36, 84, 52))
    return image


def night_city() -> Image.Image:
    image = Image.new("RGB", SIZE, (18, 20, 46))
    draw = ImageDraw.Draw(image)
    draw.ellipse((385, 26, 435, 76), (240, 236, 205))
    dice = random.Random(7)
    for x in range(0, WIDTH, 60):
        top = dice.randrange(90, 210)
        draw.rectangle((x + 4, top, x + 54, HEIGHT), (44, 48, 78))
        for window_y in range(top + 10, HEIGHT - 12, 24):
            for window_x in range(x + 11, x + 46, 14):
                if dice.random() < 0.55:
                    draw.rectangle((window_x, window_y, window_x + 7, window_y + 11), (250, 214, 110))
    return image


def cat() -> Image.Image:
    image = Image.new("RGB", SIZE, (196, 222, 214))
    draw = ImageDraw.Draw(image)
    fur, dark = (232, 156, 70), (60, 42, 30)
    draw.polygon(((165, 130), (175, 62), (225, 104)), fur)
    draw.polygon(((315, 130), (305, 62), (255, 104)), fur)
    draw.ellipse((150, 90, 330, 250), fur)
    for x in (198, 262):
        draw.ellipse((x, 142, x + 22, 172), (240, 246, 170))
        draw.ellipse((x + 8, 144, x + 14, 170), dark)
    draw.polygon(((232, 190), (248, 190), (240, 202)), (214, 100, 110))
    for y in (196, 206, 216):
        draw.line((150, y - 8, 212, y), dark, 2)
        draw.line((330, y - 8, 268, y), dark, 2)
    return image


def mug() -> Image.Image:
    image = Image.new("RGB", SIZE, (236, 224, 206))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 250, WIDTH, HEIGHT), (150, 106, 70))
    draw.ellipse((270, 150, 345, 230), outline=(190, 60, 60), width=14)
    draw.rounded_rectangle((165, 120, 300, 262), 18, (190, 60, 60))
    draw.ellipse((165, 106, 300, 138), (92, 56, 36))
    for x in (200, 232, 264):
        draw.arc((x - 12, 56, x + 12, 100), 90, 270, (206, 196, 184), 4)
    return image


def sailing_boat() -> Image.Image:
    image = _gradient((120, 190, 240), (226, 242, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 220, WIDTH, HEIGHT), (34, 104, 160))
    draw.polygon(((236, 60), (236, 205), (150, 205)), (250, 250, 246))
    draw.polygon(((246, 80), (246, 205), (318, 205)), (232, 82, 66))
    draw.polygon(((140, 214), (335, 214), (300, 250), (172, 250)), (110, 70, 44))
    return image


def bar_chart() -> Image.Image:
    image = Image.new("RGB", SIZE, (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for index, value in enumerate((80, 140, 110, 190, 230, 170)):
        x = 70 + index * 62
        draw.rectangle((x, 280 - value, x + 40, 280), (70, 120 + index * 20, 190))
    draw.line((50, 30, 50, 280, 450, 280), (40, 40, 40), 3)
    return image


def chessboard() -> Image.Image:
    image = Image.new("RGB", SIZE, (88, 64, 48))
    draw = ImageDraw.Draw(image)
    for row in range(8):
        for column in range(8):
            x, y = 96 + column * 36, 16 + row * 36
            draw.rectangle((x, y, x + 35, y + 35), (238, 220, 184) if (row + column) % 2 == 0 else (150, 104, 72))
            if row in (1, 6):
                draw.ellipse((x + 9, y + 9, x + 27, y + 27), (30, 30, 30) if row == 1 else (252, 252, 248))
    return image


def flower() -> Image.Image:
    image = Image.new("RGB", SIZE, (208, 232, 200))
    draw = ImageDraw.Draw(image)
    draw.line((240, 150, 240, 310), (60, 120, 60), 10)
    for petal in range(8):
        x, y = 240 + 58 * cos(petal * pi / 4), 140 + 58 * sin(petal * pi / 4)
        draw.ellipse((x - 34, y - 34, x + 34, y + 34), (226, 96, 150))
    draw.ellipse((208, 108, 272, 172), (250, 206, 70))
    return image


def house() -> Image.Image:
    image = Image.new("RGB", SIZE, (170, 212, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 260, WIDTH, HEIGHT), (110, 168, 92))
    draw.rectangle((140, 150, 340, 275), (240, 226, 196))
    draw.polygon(((120, 152), (240, 72), (360, 152)), (168, 70, 56))
    draw.rectangle((220, 200, 262, 275), (104, 66, 44))
    for x in (160, 288):
        draw.rectangle((x, 178, x + 36, 212), (150, 200, 226))
    return image


def balloons() -> Image.Image:
    image = Image.new("RGB", SIZE, (214, 234, 250))
    draw = ImageDraw.Draw(image)
    for x, y, colour in ((130, 60, (230, 74, 74)), (220, 36, (250, 190, 60)), (310, 70, (86, 150, 226))):
        draw.line((x + 36, y + 96, 250, 310), (90, 90, 90), 2)
        draw.ellipse((x, y, x + 72, y + 96), colour)
    return image


def traffic_light() -> Image.Image:
    image = Image.new("RGB", SIZE, (188, 206, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((232, 230, 248, HEIGHT), (70, 70, 74))
    draw.rounded_rectangle((190, 24, 290, 240), 16, (40, 40, 44))
    for y, colour in ((38, (224, 60, 52)), (106, (96, 84, 40)), (172, (40, 84, 48))):
        draw.ellipse((211, y, 269, y + 58), colour)
    return image


def fish() -> Image.Image:
    image = Image.new("RGB", SIZE, (52, 128, 176))
    draw = ImageDraw.Draw(image)
    draw.polygon(((330, 160), (410, 105), (410, 215)), (246, 140, 50))
    draw.ellipse((120, 100, 345, 220), (246, 140, 50))
    draw.rectangle((200, 104, 222, 216), (250, 246, 240))
    draw.ellipse((150, 138, 172, 160), (250, 250, 250))
    draw.ellipse((156, 144, 166, 154), (20, 20, 20))
    for x, y in ((90, 90), (74, 60), (98, 36)):
        draw.ellipse((x, y, x + 14, y + 14), outline=(220, 240, 250), width=2)
    return image


def knife_and_blood() -> Image.Image:
    image = Image.new("RGB", SIZE, (226, 226, 222))
    draw = ImageDraw.Draw(image)
    draw.ellipse((90, 200, 330, 290), (150, 10, 16))
    draw.ellipse((310, 236, 380, 272), (150, 10, 16))
    draw.polygon(((120, 120), (330, 150), (330, 182), (150, 160)), (176, 182, 190))
    draw.polygon(((120, 120), (190, 130), (190, 166), (150, 160)), (160, 18, 22))
    draw.rectangle((330, 144, 420, 190), (54, 38, 30))
    for x, y in ((140, 180), (172, 188), (204, 184)):
        draw.ellipse((x, y, x + 10, y + 20), (160, 12, 18))
    return image


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    image = Image.new("RGB", SIZE)
    draw = ImageDraw.Draw(image)
    for y in range(HEIGHT):
        share = y / (HEIGHT - 1)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
        draw.line((0, y, WIDTH, y), (red, green, blue))
    return image
