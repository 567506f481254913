INSERT INTO mirrored_orders (customer, total) VALUES ('a new customer', 10);
UPDATE mirrored_orders SET total = total + 1 WHERE id <= 50;
DELETE FROM mirrored_orders WHERE id BETWEEN 60 AND 70;
UPDATE mirrored_orders SET id = id + 100000 WHERE id BETWEEN 80 AND 90;
